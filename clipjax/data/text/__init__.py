"""Text -> token ids, as each model's training had it."""
