"""Functions that run and condition the reference's towers, one file per family."""
