"""State on disk: mapped files, commit records, snapshots, recovery."""
