"""The exchange over NVIDIA's Sparse Operation Kit."""
