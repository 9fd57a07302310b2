"""Nuclear-norm matrix completion: scIALM (paper: Liu, Wang & Gao 2024)."""
