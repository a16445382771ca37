"""Parameter store: shards, updates, staleness rules, server optimizers. No gRPC, no files."""
