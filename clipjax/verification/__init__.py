"""Whether a model matches its reference stage by stage, compiles for other chips, and is proved."""
