"""Models for programs that do not have this package."""
