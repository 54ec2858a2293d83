"""Few-shot images: data, episodes, encoders, and the family of MAML as processes of the core."""
