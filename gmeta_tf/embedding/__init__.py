"""The model-parallel half: keys to their owners, rows back, gradients to the owners."""
