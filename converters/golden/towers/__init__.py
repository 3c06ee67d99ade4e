"""How the towers of the reference are run and conditioned: one file a family, found by scanning."""
