"""A task's numbers from the per-image outputs of any framework."""
