"""Results as files for the Hugging Face hub and Every Eval Ever. Nothing leaves this machine."""
