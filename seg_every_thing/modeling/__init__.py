"""What a model is made of: heads, backbones, and the weight transfer function."""
