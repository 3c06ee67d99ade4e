"""Turn the name, file or object that a user gives for a model into a model that can be evaluated."""
