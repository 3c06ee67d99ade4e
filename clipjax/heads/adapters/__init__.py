"""One file a kind of adapter: what was learned beside a base, and the heads that it makes."""
