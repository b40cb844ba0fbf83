"""Trained networks, read back and written for use without kd_jax."""
