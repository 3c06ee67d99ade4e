"""Reference text towers."""
