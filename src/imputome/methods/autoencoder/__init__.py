"""The plain autoencoder on log-normalised counts: its network, its designs, its result, and the estimator."""
