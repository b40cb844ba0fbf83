"""Weights of other libraries, read into the networks of kd_jax."""
