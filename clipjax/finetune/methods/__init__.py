"""The fine-tuning methods, one per file, found by scanning."""
