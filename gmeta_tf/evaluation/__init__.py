"""Metrics of evaluated rows, and the baseline that they stand beside."""
