"""Commands that run models on data sets."""
