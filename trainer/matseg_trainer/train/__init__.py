"""Epochs of steps: from images to the checkpoint that is kept."""
