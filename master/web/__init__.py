"""HTTP pages of a master: the live page, the run as data, /metrics, /targets and /healthz."""
