"""Gates: is a checkpoint not worse than a pinned reference? One-sided, with alpha spent over checkpoints."""
