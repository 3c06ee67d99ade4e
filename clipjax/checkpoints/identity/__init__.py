"""The identity of weights: the registry, known digests, names and facts."""
