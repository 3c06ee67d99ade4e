"""Commands that read result rows: the group `clipjax results`, and comparisons, figures, claims, a page."""
