"""One file for each kind of data set, and what prepares them on disk."""
