"""Training of one layer: trainers, unlocks, device. No I/O."""
