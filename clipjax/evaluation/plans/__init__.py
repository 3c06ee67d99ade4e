"""Many runs in one call: which there are, which have rows, and how they are run one after another."""
