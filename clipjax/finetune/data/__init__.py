"""Training data: splits, few-shot lists, batches."""
