"""Tensors and messages to bytes and back; the only importer of `protos`."""
