"""HTTP pages of a master: the live page, /metrics, /status, /history, /targets and /healthz."""
