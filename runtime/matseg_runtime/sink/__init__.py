"""Sinks of labels: one image per slice, a TIFF stack, or a zarr volume."""
