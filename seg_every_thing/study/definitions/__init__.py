"""What a study compares: rows, tables and suites, as data."""
