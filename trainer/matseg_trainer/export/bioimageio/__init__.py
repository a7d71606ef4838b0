"""Model packages for bioimage.io, which ilastik, deepImageJ and QuPath read."""
