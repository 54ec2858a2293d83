"""Simplicity priors or mechanisms? What meta-training on formal languages leaves in a network (Goodale et al. 2025)."""
