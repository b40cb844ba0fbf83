"""A trained prediction as an ONNX file, by jax2onnx (`kd_jax[onnx]`).

The file takes 'images' [N,H,W,3] u8 and gives 'logits' [N,K] f32, N any number;
the weights are in it. It is written only where onnxruntime computes with it
what JAX computes with the network.
"""

import importlib.metadata
import pathlib
from typing import Any

import jax
from jax import export
import jax.numpy as jnp
import numpy as np

from kd_jax import errors
from kd_jax.export import artifact

BATCHES = (1, 2, 7, 64)  # the sizes that are compared
# The first JAX under which jax2onnx 0.17.1 converts nothing; see kd_jax[onnx].
UNTESTED = (0, 12)
# Of the largest logit, for networks that compute in float32.
TOLERANCE = 1e-4


def write(trained: artifact.Trained, path: pathlib.Path) -> None:
  """Converts, compares and writes.

  Args:
    trained: computing in float32.
    path: of the file.

  Raises:
    UsageError: where jax2onnx is not there, or cannot convert this network.
    RunError: where the file computes something else.
  """
  content = convert(trained)
  check(trained, content)
  path.write_bytes(content)


def convert(trained: artifact.Trained) -> bytes:
  """The ONNX file of a prediction, unchecked; errors as `write`."""
  facts = trained.facts
  if facts['dtype'] != 'float32':
    raise errors.UsageError(
      f'--onnx: the network computes in {facts["dtype"]}; only float32 is '
      'converted'
    )
  try:
    import jax2onnx
  except ImportError as error:
    raise errors.UsageError(
      f"--onnx needs jax2onnx: pip install 'kd_jax[onnx]' ({error})"
    ) from error
  size = facts['image_size']
  (batch,) = export.symbolic_shape('batch')
  images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
  try:
    model: Any = jax2onnx.to_onnx(
      lambda images: trained.forward(trained.weights, images),
      [images],
      model_name=facts['network'].replace(':', '.'),
      input_names=['images'],
      output_names=['logits'],
    )
  except Exception as error:  # its plugins raise whatever they met
    raise errors.UsageError(
      f'--onnx: jax2onnx {importlib.metadata.version("jax2onnx")} cannot '
      f'convert {facts["network"]}{_cure(error)}'
    ) from error
  return model.SerializeToString()


def _cure(error: Exception) -> str:
  """Says what jax2onnx raised, and whether the versions are to blame."""
  line = f': {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}'
  if jax.__version_info__ < UNTESTED:
    return line
  untested = '.'.join(map(str, UNTESTED))
  return (
    f' under jax {jax.__version__}{line}; it is tested with older ones: pip '
    f"install 'jax<{untested}', and export the run with that"
  )


def check(trained: artifact.Trained, content: bytes) -> None:
  """Compares onnxruntime with JAX at several batch sizes.

  Raises:
    RunError: where they differ.
  """
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.log_severity_level = 4  # it is said below
  session = onnxruntime.InferenceSession(
    content, options, providers=['CPUExecutionProvider']
  )
  size = trained.facts['image_size']
  forward = jax.jit(trained.forward)
  for count in BATCHES:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    want = np.asarray(forward(trained.weights, images))
    try:
      (got,) = session.run(None, {'images': images})
    except Exception as error:  # onnxruntime's own classes are not public
      line = str(error).strip().partition('\n')[0]
      raise errors.RunError(
        f'--onnx: onnxruntime cannot run the converted file: {line}'
      ) from error
    atol = TOLERANCE * max(1.0, float(np.abs(want).max()))
    if got.shape != want.shape or not np.allclose(got, want, 0, atol):
      raise errors.RunError(
        f'--onnx: at batch {count} onnxruntime computes other logits than JAX; '
        'nothing was written. jax2onnx converts padded pooling wrongly: pad '
        'with jnp.pad, and pool without padding'
      )
