"""Processes, devices, folders and files: what a run stands on."""
