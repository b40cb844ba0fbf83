"""Prints the table of networks: `kd-jax list networks [name ...]`."""

from collections.abc import Sequence

from kd_jax import models
from kd_jax.runtime import command

# The classes that are shown of networks that do not classify images, by the
# task and the pixels of a network's images.
_CLASSES = {
  ('detection', 48): 10,
  ('detection', 300): 20,
  ('segmentation', 48): 11,
  ('segmentation', 513): 21,
}


def main(argv: Sequence[str]) -> int:
  """Prints the parameters, FLOPs and taps of networks; returns the exit code.

  Args:
    argv: The arguments after `list networks`.

  Raises:
    UsageError: A name is unknown.
  """
  parser = command.parser(
    'kd-jax list networks',
    'Parameters, FLOPs of one image, and taps (height x width x channels) of '
    'the networks.',
  )
  parser.add_argument('names', nargs='*', metavar='name', help='default: all')
  parser.add_argument(
    '--num_classes',
    type=int,
    default=0,
    help='K; default: 100 at 32 pixels, 1000 at 224 and more; for objects or '
    'pixels 10, 11, 20 or 21',
  )
  parser.add_argument(
    '--image_size',
    type=int,
    default=0,
    help="pixels; default: each network's own",
  )
  args = parser.parse_args(argv)
  chosen = {name: models.make(name, 1) for name in args.names}
  chosen = chosen or {name: models.make(name, 1) for name in models.NETWORKS}
  for name, network in chosen.items():
    native_size = models.image_size(network)
    size = args.image_size or native_size
    task = models.task(network)
    classes = args.num_classes or _classes(task, native_size)
    description = models.describe(models.make(name, classes), size)
    print(
      f'{name:24}{description.params:>11,} parameters'
      f'{description.flops / 1e6:>10,.1f} MFLOPs at {size}x{size}, '
      f'{classes} classes, {task}'
    )
    shapes = [
      f'{tap} {"x".join(str(n) for n in shape)}'
      for tap, shape in description.taps.items()
    ]
    print('  ' + ', '.join(shapes), flush=True)
  return 0


def _classes(task: str, size: int) -> int:
  """Returns the classes that are shown of a network for images of a size."""
  if task == 'classification':
    return 1000 if size >= 224 else 100
  return _CLASSES[task, size]
