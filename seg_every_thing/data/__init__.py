"""Data sets in which some objects have masks and the others boxes alone."""
