"""Experiments as data: rows that share one detector and differ in the named thing alone."""
