"""NPBML (Raymond et al. 2024): its results, its ablations, and what the paper leaves open."""
