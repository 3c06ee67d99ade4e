"""A run: a model, a data set and a task resolved, embedded, measured; its numbers as rows with provenance."""
