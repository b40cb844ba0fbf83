"""Exports the network of a finished run: `kd-jax export RUN OUT`.

OUT is a folder for use without kd_jax. It holds the weights, the forward pass
for CPU, GPU and TPU, class names, normalisation, the accuracy, a model card and
a predict.py, which needs only jax, numpy, safetensors and flatbuffers; see
`kd_jax.export.artifact`.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import pathlib
import signal
from typing import Any

from absl import logging
import jax
import numpy as np

from kd_jax import errors, tasks
from kd_jax.export import artifact, card, hub, onnx, state_dict, tflite
from kd_jax.runtime import command, stored
from kd_jax.training import datasets, imports, restore


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Exports a run and returns the exit code.

  Args:
    argv: The arguments after the verb.
  """
  logging.set_verbosity(logging.ERROR)  # otherwise Orbax logs every read
  args = _parser().parse_args(argv)
  names = ('allow_imports', 'ema', 'hub', 'license', 'opset')
  key = errors.keys(**{name: f'--{name}' for name in names})
  with key, _ending_by_sigterm(), artifact.beside(args.out) as folder:
    card.check_license(args.license)
    if args.hub:
      hub.check(args.hub)
    trained = restore.load(
      args.run, allow_imports=args.allow_imports, ema=args.ema
    )
    _check(args, trained.facts)
    lines = [_measured(args, trained.facts), *_write(args, trained, folder)]
  if args.hub:
    hub.upload(pathlib.Path(args.out), args.hub)
    lines.append(f'{args.out} is at the Hub: {args.hub}')
  print('\n'.join(map(errors.line, lines)))
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = command.parser('kd-jax export', __doc__)
  add = parser.add_argument
  add('run', help='the folder of a finished run')
  add('out', help='the folder to write; it must be new')
  add(
    '--with_test_set',
    action='store_true',
    help='writes the test split as test.npz, for predict.py to score',
  )
  add(
    '--onnx', action='store_true', help='writes student.onnx too: kd_jax[onnx]'
  )
  add('--opset', type=int, help=f'of the ONNX file; {onnx.OPSET}')
  add(
    '--torch',
    action='store_true',
    help=f"writes {state_dict.FILE} too, by PyTorch's names",
  )
  add(
    '--tensorflow',
    action='store_true',
    help='writes a SavedModel and TFLite files too: kd_jax[tensorflow]',
  )
  add('--layout', default='', help='whose names, such as timm; for --torch')
  add(
    '--license',
    default=card.UNKNOWN,
    help=f'an identifier for {card.FILE}, such as apache-2.0',
  )
  add(
    '--hub',
    default='',
    metavar='OWNER/NAME',
    help='uploads the export to that repository of the Hugging Face Hub: '
    'kd_jax[hub]',
  )
  add('--data_dir', default='', help='of the test split')
  add(
    '--ema', action='store_true', help='takes the averaged parameters of a run'
  )
  add('--allow_imports', action='store_true', help=imports.HELP)
  return parser


def _write(
  args: argparse.Namespace, trained: artifact.Trained, folder: pathlib.Path
) -> list[str]:
  """Writes an export and returns what there is to say."""
  lines, test = [], None
  if args.with_test_set:
    opened = datasets.open_data(trained, '', args.data_dir, args.allow_imports)
    test, changed = opened.arrays('test'), datasets.changed(trained, opened)
    if changed:
      lines.append(f'{artifact.TEST} is of other data: {changed}')
    script = f'{args.out}/predict.py {args.out}/{artifact.TEST}'
    what = 'find the objects' if 'boxes' in test.targets else 'score it'
    lines.append(f'{what}: python {script}')
  artifact.write(trained, folder, test)
  check(trained, artifact.read(folder))
  layout = ''
  if args.torch:
    layout = state_dict.write(trained, folder, args.layout)
    lines.append(f'{args.out}/{state_dict.FILE}: the names of {layout}')
  if args.onnx:
    lines.append(_write_onnx(args, trained, folder))
  if args.tensorflow:
    lines += [
      f'{args.out}/{name}: within {far:.1g} of the largest logit of JAX'
      for name, far in tflite.write(folder).items()
    ]
  facts = stored.read(folder / artifact.FACTS)
  card.write(facts, folder, args.license, layout)
  return lines


def _check(args: argparse.Namespace, facts: dict[str, Any]) -> None:
  """Raises UsageError if what is asked for cannot be written."""
  if args.layout and not args.torch:
    raise errors.UsageError('--layout is for --torch: give that too')
  if args.opset and not args.onnx:
    raise errors.UsageError('--opset is for --onnx: give that too')
  if args.onnx:
    onnx.check_task(facts)
  if args.onnx and artifact.is_export(args.run):
    raise errors.UsageError(
      f'--onnx: {args.run} is an export, whose program is compiled and not '
      'converted: give the folder of its run'
    )
  if args.opset:
    onnx.check_opset(args.opset)
  if args.tensorflow:
    tflite.check(facts)


def _write_onnx(
  args: argparse.Namespace, trained: artifact.Trained, folder: pathlib.Path
) -> str:
  """Writes the ONNX file, and returns the line that says what it is."""
  opset, ran = args.opset or onnx.OPSET, trained.facts['dtype']
  if ran != 'float32':
    trained = restore.load(
      args.run,
      allow_imports=args.allow_imports,
      ema=args.ema,
      dtype='float32',
    )
  onnx.write(trained, folder / onnx.FILE, opset)
  said = f'{args.out}/{onnx.FILE}: opset {opset}, computes in float32'
  return said + ('' if ran == 'float32' else f', where the run did in {ran}')


def _measured(args: argparse.Namespace, facts: dict[str, Any]) -> str:
  """Returns the line that says what is exported, and its accuracy."""
  accuracy = facts['accuracy']
  metric = tasks.find(facts.get('task', 'classification')).headline
  of = f'{accuracy["images"]} {accuracy["data"]} {accuracy["split"]} images'
  value = f'{accuracy[metric.name]:.2f}%'
  said = f'{metric.text} {value} on {of}'
  if 'correct' in accuracy:
    said = f'{accuracy["correct"]} of {of} correct ({value})'
  if 'protocol' in accuracy:
    said += f' by the protocol {accuracy["protocol"]}'
  averaged = ' (averaged)' if args.ema else ''
  return (
    f'{args.out}: {facts["network"]}, {facts["parameters"]} parameters'
    f'{averaged}, {said}'
  )


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
