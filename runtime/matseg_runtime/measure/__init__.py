"""Numbers out of labels: phase fractions, regions, stereology, tables."""
