"""Engines: where the processes of a cluster are started."""
