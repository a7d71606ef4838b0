"""Trainings and evaluations as HTML files one can look at; neither needs torch to be made."""
