"""What the deep methods share: likelihoods, mini-batches, sparse layers, training and checkpoints."""
