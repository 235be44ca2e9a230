"""What gmeta_tf is measured by: each module is run as `python -m benchmarks.<name>`."""
