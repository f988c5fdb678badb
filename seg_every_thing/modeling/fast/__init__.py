"""What makes a trained model faster without changing what it finds: for inference alone."""
