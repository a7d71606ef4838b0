"""The documents and rules that trainer and runtime agree on: model metadata, classes, tiling."""
