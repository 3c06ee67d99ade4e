"""A run: resolve a model, a data set and a task; embed and measure; write rows with provenance."""
