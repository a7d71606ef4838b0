"""Where slices come from, and what is wrong with them."""
