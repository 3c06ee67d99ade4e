"""The reference's image towers of convolutions."""
