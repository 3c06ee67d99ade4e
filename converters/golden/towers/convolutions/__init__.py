"""Reference image towers of convolutions."""
