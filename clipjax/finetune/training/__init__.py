"""Training of a problem: step, loop, optimiser, resume points, logs."""
