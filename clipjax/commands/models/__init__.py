"""Commands about models: list, convert, export, and compare with the reference library."""
