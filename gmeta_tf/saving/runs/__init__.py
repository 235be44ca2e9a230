"""What a training run keeps: its folder, its lock, its beats, its ending."""
