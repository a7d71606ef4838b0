"""Accuracy of a model on labelled images: figures, tables, overlays, plots."""
