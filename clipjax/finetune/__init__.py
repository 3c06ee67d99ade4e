"""Fine-tuning: one file a method, over one sharded step that survives the end of its machine."""
