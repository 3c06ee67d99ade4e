"""Models: architecture records (arch.py), layers, one family a file, pure forward functions (network.py).

A family is a module of this package with a module-level `FAMILY` record; `clipjax.models.arch` finds it by
scanning.
"""

# Bumped whenever a forward pass may return other numbers: it is part of every key of the embedding store.
FORWARD_VERSION = 3
