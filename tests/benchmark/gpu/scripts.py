"""Imports the scripts of benchmarks/gpu for tests that need no GPU."""

import importlib
import pathlib

import kd_jax

ROOT = pathlib.Path(kd_jax.__file__).parents[1]


def script(name):
  """Returns a script as a module; its folder must be on the path."""
  return importlib.import_module(name)
