"""Lines through models, group differences, correlations; each with an interval over models."""
