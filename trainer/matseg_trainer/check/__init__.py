"""Checks of a labelled data set: errors, and likely slips."""
