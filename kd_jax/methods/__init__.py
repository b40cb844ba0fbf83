"""Distillation methods, one module per method; `base` has what they share."""
