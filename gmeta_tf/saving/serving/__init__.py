"""A SavedModel at work: by batch and by request."""
