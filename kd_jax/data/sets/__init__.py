"""The kinds of data sets, one per module, and their preparation on disk."""
