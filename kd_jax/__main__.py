"""The command `kd-jax`, as `python -m kd_jax`."""

from kd_jax.cli import app

if __name__ == '__main__':
  app.start()
