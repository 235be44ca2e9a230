"""Raw rows to a records folder."""
