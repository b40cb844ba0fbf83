"""Where the processes of a test session keep what they compiled."""

import atexit
import os
import tempfile

_FOLDER = 'KD_JAX_TEST_COMPILED'


def environment():
  """Variables for JAX: many tests compile the same programs."""
  if _FOLDER not in os.environ:
    folder = tempfile.TemporaryDirectory(prefix='kd_jax_compiled_')
    atexit.register(folder.cleanup)
    os.environ[_FOLDER] = folder.name
  return {
    'JAX_COMPILATION_CACHE_DIR': os.environ[_FOLDER],
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.05',
  }
