"""A page of the images behind the numbers: where models disagree, what changed, what is hard for all."""
