"""Shards: table, flat module state, working copy, messages of the parameter service."""
