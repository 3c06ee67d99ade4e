"""Files -> `Model` (a card and params), and back."""
