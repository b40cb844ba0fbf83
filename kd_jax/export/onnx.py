"""Export of a trained network as an ONNX file by jax2onnx (`kd_jax[onnx]`).

The file's input is 'images' [N,H,W,3] u8 and its output 'logits' f32, [N,K] or
of segmentation [N,H,W,K], for every N; it contains the weights. Its graph is
rewritten by `onnx_graph`. It is written only if onnxruntime computes the same
logits from it as JAX does.
"""

import importlib.metadata
import pathlib
from typing import Any

import jax
from jax import export
import jax.numpy as jnp
import numpy as np

from kd_jax import errors
from kd_jax.export import artifact, onnx_graph

FILE = 'student.onnx'
# The versions of ONNX's operators that may be asked for.
OPSETS = range(17, 24)
OPSET = 21
BATCHES = (1, 2, 7, 64)  # the batch sizes that are compared
DENSE_BATCHES = BATCHES[:2]  # the same where each pixel has logits
# The first version of JAX under which jax2onnx 0.17.1 converts no network; see
# kd_jax[onnx].
UNTESTED = (0, 12)
# The allowed difference of logits, relative to the largest absolute logit, for
# networks that compute in float32.
TOLERANCE = 1e-4


def write(
  trained: artifact.Trained, path: pathlib.Path, opset: int = OPSET
) -> None:
  """Converts a network, compares the outputs, and writes the ONNX file.

  Args:
    trained: The network, which must compute in float32.
    path: The path of the file.
    opset: The version of ONNX's operators.

  Raises:
    UsageError: jax2onnx is not installed or cannot convert the network, the
      network does not compute in float32, or there is no such opset.
    RunError: onnxruntime computes other logits than JAX.
  """
  content = convert(trained, opset)
  check(trained, content)
  path.write_bytes(content)


def check_task(facts: dict[str, Any]) -> None:
  """Checks that a network of its task is converted.

  Args:
    facts: The facts of network.json.

  Raises:
    UsageError: It predicts no logits.
  """
  if facts.get('task') == 'detection':
    raise errors.UsageError(
      '--onnx is for networks that predict logits, and detections are '
      'suppressed in a loop that jax2onnx 0.17.1 does not convert: leave it '
      'out'
    )


def check_opset(opset: int) -> None:
  """Raises UsageError if a version of the operators is not written."""
  if opset not in OPSETS:
    raise errors.ArgumentError(
      f'opset={opset}: versions {OPSETS[0]} to {OPSETS[-1]} are written'
    )


def convert(trained: artifact.Trained, opset: int = OPSET) -> bytes:
  """Returns the content of the ONNX file, without a check of its outputs.

  Args:
    trained: The network, which must compute in float32.
    opset: The version of ONNX's operators.

  Raises:
    UsageError: jax2onnx is not installed or cannot convert the network, the
      network does not compute in float32, or there is no such opset.
  """
  facts = trained.facts
  check_opset(opset)
  if facts['dtype'] != 'float32':
    raise errors.UsageError(
      f'the network computes in {facts["dtype"]}, and only float32 is '
      "converted: load it with dtype='float32'"
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
      opset=opset,
    )
    return onnx_graph.optimised(model.SerializeToString())
  except Exception as error:  # jax2onnx's plugins share no class of errors
    raise errors.UsageError(
      f'--onnx: jax2onnx {importlib.metadata.version("jax2onnx")} cannot '
      f'convert {facts["network"]}{_cure(error)}'
    ) from error


def _cure(error: Exception) -> str:
  """Returns jax2onnx's error, with advice if the version of JAX is untested."""
  line = f': {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}'
  if jax.__version_info__ < UNTESTED:
    return line
  untested = '.'.join(map(str, UNTESTED))
  return (
    f' under jax {jax.__version__}{line}; it is tested with older ones: pip '
    f"install 'jax<{untested}', and export the run with that"
  )


def check(trained: artifact.Trained, content: bytes) -> None:
  """Compares the logits of onnxruntime and JAX at several batch sizes.

  Args:
    trained: The network.
    content: The content of the ONNX file.

  Raises:
    RunError: onnxruntime cannot run the file, or the logits differ.
  """
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.log_severity_level = 4  # errors are reported below
  session = onnxruntime.InferenceSession(
    content, options, providers=['CPUExecutionProvider']
  )
  size = trained.facts['image_size']
  forward = jax.jit(trained.forward)
  for count in DENSE_BATCHES if trained.facts.get('task') else BATCHES:
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    expected = np.asarray(forward(trained.weights, images))
    try:
      (actual,) = session.run(None, {'images': images})
    except Exception as error:  # onnxruntime's classes of errors are private
      line = str(error).strip().partition('\n')[0]
      raise errors.RunError(
        f'--onnx: onnxruntime cannot run the converted file: {line}'
      ) from error
    atol = TOLERANCE * max(1.0, float(np.abs(expected).max()))
    if actual.shape != expected.shape or not np.allclose(
      actual, expected, 0, atol
    ):
      raise errors.RunError(
        f'--onnx: at batch {count} onnxruntime computes other logits than JAX; '
        'nothing was written. jax2onnx converts padded pooling wrongly: pad '
        'with jnp.pad, and pool without padding'
      )
