"""What is wrong with a labelled data set, and what in it deserves a look."""
