"""Trains a student: `python -m kd_jax.main --config configs/fpd.py`."""

from kd_jax.cli import train

if __name__ == '__main__':
  train.start()
