"""Which rows make one number of a model, which models form a group, and scales of numbers."""
