"""Signals: values that cross a boundary between layers, a tensor or named tensors."""
