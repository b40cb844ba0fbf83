"""The commands of `kd-jax`, which read arguments and call other packages."""
