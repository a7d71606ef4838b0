"""How good a model is on labelled images: figures, tables, overlays."""
