"""Raw tables, and published data sets: where rows come from."""
