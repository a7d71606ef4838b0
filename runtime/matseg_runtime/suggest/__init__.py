"""What to label next: how uncertain a model is, and where."""
