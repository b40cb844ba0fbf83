"""Published numbers, the runs that repeat them, and the page that compares."""
