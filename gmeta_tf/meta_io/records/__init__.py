"""The records folder: its format, its index, and whether it is sound."""
