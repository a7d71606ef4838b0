"""One model file: read, checked, trusted, found by name."""
