"""One file a kind of adapter: what it learned beside a base model, and its heads."""
