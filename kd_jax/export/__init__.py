"""Exports of trained networks for use without kd_jax."""
