"""Conversion of weights from other libraries to the networks of kd_jax."""
