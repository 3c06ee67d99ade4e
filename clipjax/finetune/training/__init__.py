"""Training of a problem: the jitted step, the loop, the optimiser, resume points, logs."""
