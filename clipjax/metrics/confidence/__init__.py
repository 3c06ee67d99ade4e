"""Numbers of confidences: calibration errors, selective prediction, conformal sets. Imports no JAX."""
