"""How the cost of a row, of a table and of a rank grows: `python -m benchmarks.scale`."""
