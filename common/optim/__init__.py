"""Optimizers, schedules and steppers."""
