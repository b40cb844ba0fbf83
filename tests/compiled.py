"""Where the processes of a test session keep what they compiled, and how."""

import atexit
import os
import tempfile

import jaxlib.version

_FOLDER = 'KD_JAX_TEST_COMPILED'

# XLA:CPU compiles the loops of small programs 3 times as fast by its emitter of
# LLVM as by way of MLIR. From jaxlib 0.11.1 on it has no other way than MLIR,
# and ends where it meets the flag.
_CHOICE = jaxlib.version.__version_info__[:3] < (0, 11, 1)
_QUICK = '--xla_cpu_use_fusion_emitters=false' if _CHOICE else ''

# Options of jax.jit for a program that must agree with another to the bit.
AS_USERS = {'xla_cpu_use_fusion_emitters': True} if _CHOICE else {}


def environment():
  """Variables for JAX: many tests compile the same programs.

  A whole run in a process of its own is compiled as a user's: its claims to the
  bit hold of loops as XLA emits them unless told otherwise.
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
  """XLA_FLAGS of the process that runs tests."""
  return ' '.join(filter(None, (_QUICK, *_given())))


def _given():
  """The user's own flags."""
  flags = os.environ.get('XLA_FLAGS', '').split()
  return [flag for flag in flags if flag != _QUICK]
