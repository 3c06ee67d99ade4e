"""Commands that make new models from others: fine-tuning, and mixing the weights of two models."""
