"""Training: trainers, freezing, hooks and optimizers."""
