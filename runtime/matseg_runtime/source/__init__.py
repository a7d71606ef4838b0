"""Sources of slices, and checks of what is wrong with them."""
