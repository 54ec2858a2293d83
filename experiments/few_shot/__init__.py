"""Few-shot images: the family of MAML side by side, on the same episodes, encoder and budget."""
