"""Which model weights are: the registry, known digests, names and facts."""
