"""Distillation methods, one module each; `base` says what they share."""
