"""The fine-tuning methods, one file each, found by scanning."""
