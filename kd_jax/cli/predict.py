"""Predicts the classes of images: `kd-jax predict EXPORT IMAGES...`.

IMAGES are files or folders, in any image format that training reads. The output
has one line per image: path, class and probability, with tabs between them. In
names, line feeds, tabs and what is invisible are escaped: '\\n', '\\x1b'. A
network that labels pixels sees the whole image, resized to its size; the
classes are written to `--out` as PNG files with Pascal VOC's palette, which
have the image's sides, and the line names the file. A network that finds
objects sees the whole image too; for each object there is a line of JSON: file,
class, score, and the box in pixels of the image.
"""

from collections.abc import Callable, Iterator, Sequence
import json
import pathlib
import sys
from typing import Any

from absl import logging
from etils import epath
import numpy as np

from kd_jax import errors
from kd_jax.data import augment_boxes, decode
from kd_jax.data.sets import tree
from kd_jax.export import artifact, predict_template
from kd_jax.runtime import command, screen
from kd_jax.training import imports, restore

_PATH = 4096  # the most characters of a path, as of Linux


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Prints the class of each image and returns the exit code.

  Args:
    argv: The arguments after the verb.
  """
  logging.set_verbosity(logging.ERROR)  # otherwise Orbax logs every read
  parser = command.parser('kd-jax predict', __doc__)
  parser.add_argument('export', help='the folder of an export or of a run')
  parser.add_argument('images', nargs='+', help='files or folders')
  parser.add_argument('--batch_size', type=int, default=64)
  parser.add_argument('--out', help='a folder for masks; it must be new')
  parser.add_argument('--allow_imports', action='store_true', help=imports.HELP)
  args = parser.parse_args(argv)
  if args.batch_size < 1:
    raise errors.UsageError(f'--batch_size={args.batch_size}: give 1 or more')

  def say(text: str) -> None:  # standard output has the results alone
    print(errors.line(text), file=sys.stderr)

  paths = [path for name in args.images for path in files(name, say)]
  with errors.keys(allow_imports='--allow_imports'):
    trained = restore.load(args.export, allow_imports=args.allow_imports)
  task = trained.facts.get('task', 'classification')
  if (task == 'segmentation') != bool(args.out):
    raise errors.UsageError(
      f'{args.export} is for {task}: '
      + ('leave out --out' if args.out else 'give --out, a folder for masks')
    )
  if args.out:
    with artifact.beside(args.out) as folder:
      for path, written in masks(trained, paths, args.batch_size, folder):
        place = pathlib.Path(args.out, written.name)
        # A reader that leaves, as `| head` does, still gets all masks.
        screen.show(
          f'{errors.shown(path, _PATH)}\t{errors.shown(place, _PATH)}'
        )
    return 0
  if task == 'detection':
    for path, found in objects(trained, paths, args.batch_size):
      print(json.dumps({'file': str(path), **found}), flush=True)
    return 0
  for path, name, probability in label(trained, paths, args.batch_size):
    row = f'{errors.shown(path, _PATH)}\t{errors.shown(name)}'
    print(f'{row}\t{100 * probability:.2f}%', flush=True)
  return 0


def files(name: str, say: Callable[[str], None] = print) -> list[pathlib.Path]:
  """Returns the path of a file, or the sorted paths of a folder's images.

  Args:
    name: The path of an image file or of a folder, which is searched with its
      sub-folders as training does.
    say: Called with a line that tells what of the folder is left out.

  Raises:
    UsageError: The folder has no image, or cannot be read.
  """
  path = pathlib.Path(name).expanduser()
  if not path.is_dir():
    if path.exists() and not path.is_file():  # a pipe would be waited for
      raise errors.UsageError(f'{path} is neither a file nor a folder')
    return [path]
  left_out = tree.LeftOut(epath.Path(path))
  paths = [pathlib.Path(p) for p in tree.images(epath.Path(path), left_out)]
  if not paths:
    suffixes = ', '.join(decode.SUFFIXES)
    raise errors.UsageError(
      f'there is no image in {path} ({suffixes}, or such content)'
      + (f'; {left_out}' if str(left_out) else '')
    )
  if str(left_out):
    say(f'{path}: {left_out}')
  return paths


def masks(
  found: artifact.Trained,
  paths: Sequence[pathlib.Path],
  batch_size: int,
  folder: pathlib.Path,
) -> Iterator[tuple[pathlib.Path, pathlib.Path]]:
  """Writes the classes of the pixels of images; yields image and file.

  Args:
    found: The trained network, which labels pixels.
    paths: The image files, at least one.
    batch_size: The most images per step.
    folder: The folder of the PNG files, 'NAME.png' for each image.

  Raises:
    UsageError: An image cannot be read, or two have one name.
    RunError: The network's logits are no finite numbers.
  """
  names = [f'{path.stem}.png' for path in paths]
  if twice := {name for name in names if names.count(name) > 1}:
    raise errors.UsageError(
      f'several images would become {min(twice)}: give them one by one'
    )
  classes = artifact.classes(found.forward)
  for batch, sides, images in _squared(found, paths, batch_size):
    rows = zip(batch, sides, *classes(found.weights, images), strict=False)
    for path, side, row, is_finite in rows:
      if not is_finite:
        raise errors.RunError(
          f"{path}: the network's logits are no finite numbers"
        )
      written = folder / f'{path.stem}.png'
      predict_template.save_mask(np.asarray(row), written, side)
      yield path, written


def objects(
  found: artifact.Trained, paths: Sequence[pathlib.Path], batch_size: int
) -> Iterator[tuple[pathlib.Path, dict[str, Any]]]:
  """Yields the path and every object of each image.

  Args:
    found: The trained network, which finds objects.
    paths: The image files, at least one.
    batch_size: The most images per step.

  Yields:
    The path, and the object as `predict_template.objects` has it.

  Raises:
    UsageError: An image cannot be read.
    RunError: The network's outputs are no finite numbers.
  """
  names = found.facts['class_names']
  detections = artifact.detections(found.forward)
  batches = _squared(found, paths, batch_size, augment_boxes.whole)
  for batch, sides, images in batches:
    every = np.asarray(detections(found.weights, images))
    for path, side, rows in zip(batch, sides, every, strict=False):
      if not np.isfinite(rows).all():
        raise errors.RunError(
          f"{path}: the network's outputs are no finite numbers"
        )
      for row in predict_template.objects(rows, names, side):
        yield path, row


def _squared(
  found: artifact.Trained,
  paths: Sequence[pathlib.Path],
  batch_size: int,
  resized: Callable[[np.ndarray, int], np.ndarray] = decode.squared,
) -> Iterator[tuple[Sequence[pathlib.Path], list[tuple[int, int]], np.ndarray]]:
  """Yields paths, their images' widths and heights, and a batch [N,H,W,3] u8.

  Images are resized whole, as the network has seen them in its evaluation. The
  last batch is padded.
  """
  size, count = found.facts['image_size'], min(batch_size, len(paths))
  for first in range(0, len(paths), count):
    batch = paths[first : first + count]
    images = np.zeros((count, size, size, 3), np.uint8)
    sides = []
    for i, path in enumerate(batch):
      image = decode.read(path)
      sides.append((image.shape[1], image.shape[0]))
      images[i] = resized(image, size)
    yield batch, sides, images


def label(
  found: artifact.Trained, paths: Sequence[pathlib.Path], batch_size: int
) -> Iterator[tuple[pathlib.Path, str, float]]:
  """Yields path, class name and probability of each image.

  Args:
    found: The trained network.
    paths: The image files, at least one.
    batch_size: The most images per step.

  Raises:
    UsageError: An image cannot be read.
    RunError: The network's logits are no finite numbers.
  """
  size, names = found.facts['image_size'], found.facts['class_names']
  probabilities = artifact.probabilities(found.forward)
  count = min(batch_size, len(paths))
  for first in range(0, len(paths), count):
    batch = paths[first : first + count]
    images = np.zeros((count, size, size, 3), np.uint8)
    for i, path in enumerate(batch):
      images[i] = decode.fit(decode.read(path), size)
    rows = np.asarray(probabilities(found.weights, images))
    # The last batch may be padded; zip drops the padding.
    for path, row in zip(batch, rows, strict=False):
      if not np.isfinite(row).all():
        raise errors.RunError(
          f"{path}: the network's logits are no finite numbers"
        )
      yield path, names[row.argmax()], float(row.max())
