"""Where labels go: one image per slice, a TIFF stack, or a zarr volume."""
