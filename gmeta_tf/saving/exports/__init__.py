"""A model as a SavedModel: raw values in, predictions out."""
