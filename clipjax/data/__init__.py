"""Data sets -> batches: cards, manifests, labels."""
