"""Grafana's dashboards, generated from a single list of panels."""
