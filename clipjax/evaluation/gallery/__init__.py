"""A page of images: where models disagree, what changed, and what all models find hard."""
