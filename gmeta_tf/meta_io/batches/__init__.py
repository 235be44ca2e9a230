"""Records to batches of tasks."""
