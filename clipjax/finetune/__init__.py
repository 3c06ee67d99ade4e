"""Fine-tuning: one file per method, on one sharded, resumable training step."""
