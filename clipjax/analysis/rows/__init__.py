"""Which rows make one number of a model, which models a group, and the scales of numbers."""
