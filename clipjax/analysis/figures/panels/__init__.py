"""One module per kind of panel; the axes of all, and a panel's trends."""
