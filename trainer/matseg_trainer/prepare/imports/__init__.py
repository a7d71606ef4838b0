"""Labels that another tool exported, made into a data set."""
