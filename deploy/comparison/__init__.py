"""Comparison of variants of one configuration."""
