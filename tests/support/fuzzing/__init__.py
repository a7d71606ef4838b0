"""Mutated inputs for the real commands, and a worker process that survives what they do to native decoders."""
