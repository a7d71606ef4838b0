"""Labelled images in, a data set that training accepts out."""
