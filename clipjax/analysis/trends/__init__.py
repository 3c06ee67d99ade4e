"""Lines through models, how groups differ, correlations; all with intervals over models."""
