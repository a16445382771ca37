"""Data sets, readers and batches: (seed, b) -> x_b, y_b."""
