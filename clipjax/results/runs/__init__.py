"""The folders of runs: written, found, indexed, merged, exchanged; and the records of runs that failed."""
