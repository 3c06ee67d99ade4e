"""Commands that compare models on the same images."""
