"""Hyperparameter versions: what may be set, read from config.toml, imported from the guide."""
