"""Commands that make new models from others."""
