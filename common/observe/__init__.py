"""Observation: metrics, logs, problems, utilization, HTTP pages."""
