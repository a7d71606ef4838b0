"""A synthetic data set, and the whole way through the commands on it."""
