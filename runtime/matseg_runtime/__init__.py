"""Segment raw images and volumes with an exported model; needs no torch."""
