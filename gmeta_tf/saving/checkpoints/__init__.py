"""A model and what its optimizer holds, in files that any number of ranks loads."""
