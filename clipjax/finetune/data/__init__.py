"""What is trained on: splits as types, few-shot lists, batches."""
