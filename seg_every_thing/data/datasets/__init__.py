"""What registers data sets with detectron2."""
