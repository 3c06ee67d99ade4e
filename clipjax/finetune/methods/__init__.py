"""One file a fine-tuning method, found by scanning."""
