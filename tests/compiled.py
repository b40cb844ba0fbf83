"""Where the processes of a test session cache compiled programs, and how."""

import atexit
import os
import tempfile

import jaxlib.version

_FOLDER = 'KD_JAX_TEST_COMPILED'

# XLA:CPU compiles the loops of small programs 3 times as fast by its LLVM
# emitter as by MLIR. Since jaxlib 0.11.1 it has only MLIR, and the flag ends
# the process.
_CHOICE = jaxlib.version.__version_info__[:3] < (0, 11, 1)
_QUICK = '--xla_cpu_use_fusion_emitters=false' if _CHOICE else ''

# Options of jax.jit for a program that must agree bit for bit with another.
AS_USERS = {'xla_cpu_use_fusion_emitters': True} if _CHOICE else {}


def environment():
  """Returns variables for JAX, which let processes share compiled programs.

  A complete run in its own process is compiled as a user's run is, since its
  bitwise guarantees hold for the loops that XLA emits by default.
  """
  if _FOLDER not in os.environ:
    folder = tempfile.TemporaryDirectory(prefix='kd_jax_compiled_')
    atexit.register(folder.cleanup)
    os.environ[_FOLDER] = folder.name
  return {
    'JAX_COMPILATION_CACHE_DIR': os.environ[_FOLDER],
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.05',
    'XLA_FLAGS': ' '.join(_given()),
  }


def quick():
  """Returns XLA_FLAGS for the process that runs the tests."""
  return ' '.join(filter(None, (_QUICK, *_given())))


def _given():
  """Returns the user's flags, without `_QUICK`."""
  flags = os.environ.get('XLA_FLAGS', '').split()
  return [flag for flag in flags if flag != _QUICK]
