"""From what a user names a model by to a model that can be evaluated."""
