"""Processes, devices, run folders, locks, checkpoints and logs."""
