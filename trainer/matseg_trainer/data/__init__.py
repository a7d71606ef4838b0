"""Labelled images on disk and in memory."""
