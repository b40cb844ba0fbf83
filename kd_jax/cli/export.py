"""Exports the network of a finished run: `kd-jax export RUN OUT`.

OUT is a folder for use without kd_jax. It holds the weights, the forward pass
for CPU, GPU and TPU, class names, normalisation, the accuracy, and a
predict.py, which needs only jax, numpy, safetensors and flatbuffers; see
`kd_jax.export.artifact`.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import signal

from absl import logging
import jax
import numpy as np

from kd_jax import errors, tasks
from kd_jax.export import artifact, onnx
from kd_jax.runtime import command
from kd_jax.training import datasets, imports, restore


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Exports a run and returns the exit code.

  Args:
    argv: The arguments after the verb.
  """
  logging.set_verbosity(logging.ERROR)  # otherwise Orbax logs every read
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
  parser.add_argument(
    '--ema', action='store_true', help='takes the averaged parameters of a run'
  )
  parser.add_argument('--allow_imports', action='store_true', help=imports.HELP)
  args = parser.parse_args(argv)
  allow, names = args.allow_imports, {'allow_imports': '--allow_imports'}
  key = errors.keys(**names, ema='--ema')
  with key, _ending_by_sigterm(), artifact.beside(args.out) as folder:
    trained = restore.load(args.run, allow_imports=allow, ema=args.ema)
    if args.onnx and (task := trained.facts.get('task')):
      raise errors.UsageError(
        f'--onnx is for classification, and {args.run} is for {task}: leave it '
        'out'
      )
    test, changed = None, ''
    if args.with_test_set:
      opened = datasets.open_data(trained, '', args.data_dir, allow)
      test, changed = opened.arrays('test'), datasets.changed(trained, opened)
    artifact.write(trained, folder, test)
    check(trained, artifact.read(folder))
    if args.onnx:
      onnx.write(trained, folder / 'student.onnx')
  facts, accuracy = trained.facts, trained.facts['accuracy']
  metric = tasks.find(facts.get('task', 'classification')).headline
  of = f'{accuracy["images"]} {accuracy["data"]} {accuracy["split"]} images'
  value = f'{accuracy[metric.name]:.2f}%'
  if 'correct' in accuracy:
    said = f'{accuracy["correct"]} of {of} correct ({value})'
  else:
    said = f'{metric.text} {value} on {of}'
  if 'protocol' in accuracy:
    said += f' by the protocol {accuracy["protocol"]}'
  lines = [
    f'{args.out}: {facts["network"]}, {facts["parameters"]} parameters'
    f'{" (averaged)" if args.ema else ""}, {said}'
  ]
  if changed:
    lines.append(f'{artifact.TEST} is of other data: {changed}')
  if test is not None:
    script = f'{args.out}/predict.py {args.out}/{artifact.TEST}'
    what = 'find the objects' if 'boxes' in test.targets else 'score it'
    lines.append(f'{what}: python {script}')
  print('\n'.join(map(errors.line, lines)))
  return 0


@contextlib.contextmanager
def _ending_by_sigterm() -> Iterator[None]:
  """Returns a context manager that SIGTERM leaves as an exception does."""
  if signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
    yield
    return

  def leave(number, frame):
    raise SystemExit(128 + number)

  signal.signal(signal.SIGTERM, leave)
  try:
    yield
  finally:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def check(found: artifact.Trained, exported: artifact.Trained) -> None:
  """Compares the logits of an export with those of the trained network.

  Args:
    found: The trained network.
    exported: The export, as read back.

  Raises:
    RunError: The logits differ.
  """
  size = found.facts['image_size']
  rng = np.random.default_rng(0)
  task = tasks.find(found.facts.get('task', 'classification'))

  def program(of: artifact.Trained) -> Callable[..., jax.Array]:
    return jax.jit(lambda w, x: task.deployed(of.forward(w, x)))

  # Two compilations of one program differ by rounding.
  tolerance = 1e-3 if found.facts['dtype'] == 'float32' else 5e-2
  for count in (1, 3):
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    expected = np.asarray(program(found)(found.weights, images))
    actual = np.asarray(program(exported)(exported.weights, images))
    scale = tolerance * max(1.0, np.abs(expected).max())
    close = np.isclose(actual, expected, rtol=0, atol=scale, equal_nan=True)
    # Rounding may change the order of detections whose scores nearly tie.
    if close.mean() < (0.95 if task.name == 'detection' else 1.0):
      raise errors.RunError(
        f'the exported forward pass differs from the network by up to '
        f'{np.abs(actual - expected).max():.3g} at batch {count}; nothing was '
        'written'
      )
