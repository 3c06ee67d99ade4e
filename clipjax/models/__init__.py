"""Models: architecture records (arch.py), layers, one family a file, pure forward functions (network.py).

A family is a module of `clipjax.models.families` with a module-level `FAMILY` record: `clipjax.models.arch`
scans for it.
"""
