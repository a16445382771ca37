"""Gradient synthesizers M: module NAME has the function `build` of the row NAME of `GRADIENTS`."""
