"""Guidance of the first hour: a starter, the meaning of keys, the runs on this machine and their pages."""
