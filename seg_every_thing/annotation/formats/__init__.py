"""Formats of annotated data sets, one file each.

Every format reads and writes the same thing: a stream of the members of a COCO file, which is
constant in memory, however large the data set is.
"""
