"""Finished runs: looked at, compared, and made in grids."""
