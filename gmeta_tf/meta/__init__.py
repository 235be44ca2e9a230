"""The two loops of optimization-based meta-learning."""
