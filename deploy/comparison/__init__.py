"""Comparison of variants of a configuration."""
