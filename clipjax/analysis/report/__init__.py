"""All of the analysis as one HTML page."""
