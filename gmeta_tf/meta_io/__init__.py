"""Meta-IO: raw tables to task-grouped records to batches of tasks."""
