"""Language models: decoders, what joins one to an image tower, and how they answer."""
