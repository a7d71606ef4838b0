"""Proposals for the next labels: how uncertain a model is, and where."""
