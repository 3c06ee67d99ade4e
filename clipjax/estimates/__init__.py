"""What programs and sweeps would take, without running them: operations, memory, cycles, hours, bytes."""
