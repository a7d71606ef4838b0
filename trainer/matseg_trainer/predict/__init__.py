"""Dense predictions of a trained network: checkpoint, tiles, one face for both kinds of model."""
