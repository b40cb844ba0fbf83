"""The version of kd_jax."""

__version__ = '0.1.0'
