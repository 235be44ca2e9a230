"""What a run leaves: its folder, checkpoints, SavedModels."""
