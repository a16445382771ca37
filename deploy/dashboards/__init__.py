"""Dashboards for Grafana and console templates for Prometheus, made from one list of panels."""
