"""Formats of annotated data sets, one file each; ``conversion`` lists them.

COCO reads and writes a stream of the members of its file.  Readers of other formats give images
with their objects (``records``), writers get a COCO file image by image (``tasks``): memory is
constant but for the names of the images.
"""
