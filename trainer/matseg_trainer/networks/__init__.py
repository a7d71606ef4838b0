"""The networks, each one module for training and export alike."""
