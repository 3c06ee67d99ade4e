"""Fine-tuning: one file per method, on one training step."""
