"""Formal languages: meta-trained networks learn real languages from few strings."""
