"""Commands that read result rows."""
