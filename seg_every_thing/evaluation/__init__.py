"""Metrics: COCO's for sets A, B and all, and those of semantic segmentation."""
