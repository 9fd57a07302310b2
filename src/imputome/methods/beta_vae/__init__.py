"""The beta-VAE for real values: its network, its designs, its result, and the estimator."""
