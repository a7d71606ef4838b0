"""A model on a provider: pixels in, labels out."""
