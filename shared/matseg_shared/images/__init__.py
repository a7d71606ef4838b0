"""Image files to arrays and back, with the limits that a header must keep."""
