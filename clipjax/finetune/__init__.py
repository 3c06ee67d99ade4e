"""Fine-tuning: one file per method, over one sharded step that survives the end of its machine."""
