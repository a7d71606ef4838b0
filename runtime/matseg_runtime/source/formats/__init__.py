"""One module per format of lab CT and microscopes: a header, and pixels that are read slice by slice."""
