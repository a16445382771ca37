"""What a master shows over HTTP: the live page, /metrics, /status, /history, /targets and /healthz."""
