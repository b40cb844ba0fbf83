"""Labels images: `kd-jax predict EXPORT IMAGES...`.

IMAGES are files, or folders of them, in any format that training reads. Each
gives a line: path, class, probability.
"""

from collections.abc import Iterator, Sequence
import pathlib

from absl import logging
import numpy as np

from kd_jax import errors
from kd_jax.data import decode
from kd_jax.data.sets import folder
from kd_jax.export import artifact
from kd_jax.runtime import command
from kd_jax.training import restore


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Prints a line for every image that the command line names."""
  logging.set_verbosity(logging.ERROR)  # Orbax tells every read otherwise
  parser = command.parser('kd-jax predict', __doc__)
  parser.add_argument('export', help='the folder of an export or of a run')
  parser.add_argument('images', nargs='+', help='files or folders')
  parser.add_argument('--batch_size', type=int, default=64)
  args = parser.parse_args(argv)
  if args.batch_size < 1:
    raise errors.UsageError(f'--batch_size={args.batch_size}: give 1 or more')
  paths = [path for name in args.images for path in files(name)]
  found = restore.load(args.export)
  for path, name, probability in label(found, paths, args.batch_size):
    print(f'{path}\t{name}\t{100 * probability:.2f}%', flush=True)
  return 0


def files(name: str) -> list[pathlib.Path]:
  """The image of this name, or all images under the folder, in order.

  Raises:
    UsageError: where there is none.
  """
  path = pathlib.Path(name).expanduser()
  if not path.is_dir():
    return [path]
  found = sorted(
    p for p in path.rglob('*') if p.suffix.lower() in folder.SUFFIXES
  )
  if not found:
    kinds = ', '.join(folder.SUFFIXES)
    raise errors.UsageError(f'there is no image in {path} ({kinds})')
  return found


def label(
  found: artifact.Trained, paths: Sequence[pathlib.Path], batch_size: int
) -> Iterator[tuple[pathlib.Path, str, float]]:
  """Path, class name and probability of each image.

  Raises:
    UsageError: where one cannot be read.
  """
  size, names = found.facts['image_size'], found.facts['class_names']
  probabilities = artifact.probabilities(found.forward)
  count = min(batch_size, len(paths))
  for first in range(0, len(paths), count):
    part = paths[first : first + count]
    images = np.zeros((count, size, size, 3), np.uint8)
    for i, path in enumerate(part):
      images[i] = decode.fit(decode.decode(_content(path), str(path)), size)
    each = np.asarray(probabilities(found.weights, images))
    for path, row in zip(part, each, strict=False):  # without the padding
      yield path, names[row.argmax()], float(row.max())


def _content(path: pathlib.Path) -> bytes:
  try:
    return path.read_bytes()
  except OSError as error:
    raise errors.UsageError(f'cannot read image {path}: {error}') from error
