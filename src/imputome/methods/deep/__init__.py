"""The engine of the deep methods: likelihoods, batches, layers, training."""
