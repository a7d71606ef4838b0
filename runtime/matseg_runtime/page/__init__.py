"""The HTML page of a run: what was labelled, how it looks, what it amounts to, and how it came about."""
