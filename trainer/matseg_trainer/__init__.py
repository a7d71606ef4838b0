"""Prepare data, train, evaluate and export (needs the `train` extra)."""
