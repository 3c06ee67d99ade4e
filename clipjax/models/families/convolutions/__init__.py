"""Image towers of convolutions."""
