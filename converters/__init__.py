"""Foreign checkpoints to clipjax params and back, without torch."""
