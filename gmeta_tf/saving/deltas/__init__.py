"""What changed between two states of a model, and a SavedModel made newer by it."""
