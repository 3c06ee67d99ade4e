"""Models: architecture records (arch.py), layers, one family per file, pure forward functions (network.py).

A family is a module of `clipjax.models.families` with a `FAMILY` record; `clipjax.models.arch` scans for it.
"""
