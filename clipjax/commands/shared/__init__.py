"""Options, output and checks of several commands."""
