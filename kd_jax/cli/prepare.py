"""Prepares ImageNet: `kd-jax prepare imagenet2012 FOLDER`.

FOLDER holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar as they are
published. Their images are written as array_record, in tfds's layout, without
TensorFlow and without unpacking the archives. A command that was ended goes on
where it stopped.
"""

from collections.abc import Sequence
import os

from kd_jax import errors
from kd_jax.data.sets import imagenet
from kd_jax.runtime import command, screen

_MOST = 256  # processes


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Prepares a data set and returns the exit code.

  Args:
    argv: The arguments after the verb.
  """
  parser = command.parser('kd-jax prepare', __doc__)
  parser.add_argument('name', help=imagenet.NAME)
  parser.add_argument('folder', help='the folder of the archives')
  parser.add_argument(
    '--data_dir', default='', help='as config.data.data_dir: where to write'
  )
  parser.add_argument(
    '--labels',
    default='',
    help='validation labels: the development kit, or a text file with a wnid '
    'in each line, or a name and a wnid',
  )
  parser.add_argument(
    '--workers', type=int, default=os.cpu_count() or 1, help='processes'
  )
  parser.add_argument(
    '--seed', type=int, default=0, help="of the images' order"
  )
  parser.add_argument(
    '--any_checksum', action='store_true', help='accept other archives'
  )
  parser.add_argument(
    '--any_counts', action='store_true', help='accept a part of ImageNet'
  )
  args = parser.parse_args(argv)
  if args.name != imagenet.NAME:
    raise errors.unknown('data set to prepare', args.name, [imagenet.NAME])
  if not 0 <= args.workers <= _MOST:
    raise errors.UsageError(
      f'--workers={args.workers}: give 1 to {_MOST} processes, or 0 to use '
      'this one alone'
    )
  options = ('data_dir', 'labels', 'seed', 'any_checksum', 'any_counts')
  with errors.keys(**{name: f'--{name}' for name in options}):
    folder = imagenet.prepare(
      args.folder,
      workers=args.workers,
      shown=screen.Screen(),
      **{name: getattr(args, name) for name in options},
    )
  print(f'{imagenet.NAME} is prepared in {folder}')
  return 0
