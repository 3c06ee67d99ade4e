"""The demo's vision-language model."""
