"""Pictures: reading them, drawing on them, and pages that show them."""
