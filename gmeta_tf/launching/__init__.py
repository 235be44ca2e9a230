"""Ranks are started, watched, and started again; without TensorFlow."""
