"""Training data: splits as types, few-shot lists, batches."""
