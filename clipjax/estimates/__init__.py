"""Estimates of what programs and sweeps take, without a run: operations, memory, cycles, hours, bytes."""
