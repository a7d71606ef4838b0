"""Everything the commands import when they work, so that it is not counted against the first case."""
