"""Network: addresses, control plane, data plane."""
