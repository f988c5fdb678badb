"""From the records of runs to tables, plots and galleries."""
