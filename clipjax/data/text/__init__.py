"""Text -> token ids, as in each model's training."""
