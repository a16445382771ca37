"""Certificates of a cluster: an authority, and a folder for each process."""
