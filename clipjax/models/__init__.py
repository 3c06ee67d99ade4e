"""Models: architecture records (arch.py), layers, one family a file, pure forward functions (network.py).

A family is a module of this package with a module-level `FAMILY` record: `clipjax.models.arch` scans for it.
"""

# Bump it whenever a forward pass may return other numbers: every key of the embedding store contains it.
FORWARD_VERSION = 3
