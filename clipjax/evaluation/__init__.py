"""A run: resolve a model, a data set and a task; embed, measure, write rows."""
