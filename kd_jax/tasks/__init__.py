"""What a data set is for: metrics and what they count."""
