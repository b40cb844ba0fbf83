"""Tasks that a data set is used for: how predictions are measured."""
