"""What makes annotation files out of others."""
