"""Exports what a run trained: `kd-jax export RUN OUT`.

OUT is a folder that stands alone: weights, the compiled forward pass for CPU,
GPU and TPU, class names, normalisation, the accuracy, and a predict.py that
needs jax, numpy, safetensors and flatbuffers only; see
`kd_jax.export.artifact`.
"""

from collections.abc import Sequence

from absl import logging
import jax
import numpy as np

from kd_jax import errors
from kd_jax.export import artifact, onnx
from kd_jax.runtime import command
from kd_jax.training import restore


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Exports the run that the command line names."""
  logging.set_verbosity(logging.ERROR)  # Orbax tells every read otherwise
  parser = command.parser('kd-jax export', __doc__)
  parser.add_argument('run', help='the folder of a finished run')
  parser.add_argument('out', help='the folder to write; it must be new')
  parser.add_argument(
    '--with_test_set',
    action='store_true',
    help='writes the test split as test.npz, for predict.py to score',
  )
  parser.add_argument(
    '--onnx', action='store_true', help='writes student.onnx too: kd_jax[onnx]'
  )
  parser.add_argument('--data_dir', default='', help='of the test split')
  args = parser.parse_args(argv)
  with artifact.beside(args.out) as folder:
    found = restore.load(args.run)
    test = None
    if args.with_test_set:
      test = restore.open_data(found, data_dir=args.data_dir).arrays('test')
    artifact.write(found, folder, test)
    check(found, artifact.read(folder))
    if args.onnx:
      onnx.write(found, folder / 'student.onnx')
  facts, known = found.facts, found.facts['accuracy']
  print(
    f'{args.out}: {facts["network"]}, {facts["parameters"]} parameters, '
    f'{known["correct"]} of {known["images"]} {known["data"]} {known["split"]} '
    f'images correct ({known["top1"]:.2f}%)'
  )
  if test is not None:
    print(f'score it: python {args.out}/predict.py {args.out}/{artifact.TEST}')
  return 0


def check(found: artifact.Trained, exported: artifact.Trained) -> None:
  """Compares the exported forward pass with the network that it is of.

  Raises:
    RunError: where their logits differ.
  """
  size = found.facts['image_size']
  rng = np.random.default_rng(0)
  # Two compilations of one program differ by rounding.
  tolerance = 1e-3 if found.facts['dtype'] == 'float32' else 5e-2
  for count in (1, 3):
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    want = np.asarray(jax.jit(found.forward)(found.weights, images))
    got = np.asarray(jax.jit(exported.forward)(exported.weights, images))
    scale = tolerance * max(1.0, np.abs(want).max())
    if not np.allclose(got, want, rtol=0, atol=scale):
      raise errors.RunError(
        f'the exported forward pass differs from the network by up to '
        f'{np.abs(got - want).max():.3g} at batch {count}; nothing was written'
      )
