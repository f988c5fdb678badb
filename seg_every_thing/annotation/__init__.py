"""Boxes in, masks out."""
