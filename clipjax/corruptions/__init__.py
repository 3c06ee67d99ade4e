"""Image corruptions as pure functions, and their run over devices."""
