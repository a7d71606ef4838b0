"""The contract between trainer and runtime: depends on neither."""
