"""A folder of images, `folder:/path`: train/<class>/* and val/<class>/*."""

import dataclasses
import os

from etils import epath
import numpy as np

from kd_jax import errors
from kd_jax.data import decode, source
from kd_jax.runtime import digests, gcs

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.gif', '.ppm')
# The most images, evenly spaced, from which the image size, unless it is
# given, and the normalisation are determined.
_SAMPLE = 500


@dataclasses.dataclass(frozen=True)
class Files:
  """A split as image files and their labels.

  Attributes:
    paths: The paths of the N images.
    labels: The class indices, [N] i32.
  """

  paths: tuple[epath.Path, ...]
  labels: np.ndarray

  def __len__(self) -> int:
    """Returns the number of images, N."""
    return len(self.paths)

  def read(self, index: int) -> tuple[np.ndarray, int]:
    """Returns the decoded image [h,w,3] u8 at an index, and its label."""
    path = self.paths[index]
    image = decode.decode(path.read_bytes(), str(path))
    return image, int(self.labels[index])


def open_folder(
  name: str, image_size: int = 0, home: epath.Path | None = None
) -> source.Source:
  """Returns a folder of images as a data set.

  The classes are the sub-folders of `train`, in alphabetical order. The test
  split is `val` if that folder exists, else `test`.

  Args:
    name: 'folder:/path'.
    image_size: The height and width of the network's input in pixels; 0 takes
      the images' own size.
    home: The folder where digests of the files are kept; see `digests`.

  Raises:
    UsageError: A split's folder is missing, a class is empty, the classes
      differ between the splits, or `image_size` is 0 and the images differ in
      size or are not square.
  """
  root = epath.Path(name.removeprefix('folder:')).expanduser()
  test = 'val' if (root / 'val').is_dir() else 'test'
  folders = {'train': root / 'train', 'test': root / test}
  if missing := [str(f) for f in folders.values() if not f.is_dir()]:
    raise errors.UsageError(
      f'{root} is no image folder: there is no {" and no ".join(missing)}; it '
      'needs train/<class>/* and val/<class>/*'
    )
  names = {split: _classes(folder) for split, folder in folders.items()}
  if names['train'] != names['test']:
    unmatched = sorted(set(names['train']) ^ set(names['test']))
    raise errors.UsageError(
      f'{root}: train and {test} have different classes: '
      f'{", ".join(unmatched[:10])} in one of them only'
    )
  splits = {split: _list(folders[split], names['train']) for split in folders}
  train = splits['train']
  sample = range(0, len(train), -(-len(train) // _SAMPLE))
  size = image_size or _common_size(root, train, sample)
  mean, std = _moments(train, sample, size)
  info = source.Info(
    name=name,
    class_names=tuple(names['train']),
    image_size=size,
    num_train=len(train),
    num_test=len(splits['test']),
    mean=mean,
    std=std,
    fingerprint=_fingerprint(root, names['train'], splits, home),
    place=gcs.absolute(root),
  )
  return source.Source(info, splits.__getitem__)


def _fingerprint(
  root: epath.Path,
  names: list[str],
  splits: dict[str, Files],
  home: epath.Path | None,
) -> str:
  """Returns a digest of names, splits, classes and bytes of all images."""
  start = len(os.fspath(root)) + 1
  paths, roles = {}, {}
  for split, images in splits.items():
    for path, label in zip(images.paths, images.labels.tolist(), strict=True):
      text = os.fspath(path)
      paths[text[start:]] = text
      roles[text[start:]] = f'{split} {names[label]}'
  found = digests.of_files(paths, gcs.absolute(root), home)
  return digests.of_contents(
    {name: f'{role} {found[name]}' for name, role in roles.items()}, home
  )


def _classes(folder: epath.Path) -> list[str]:
  classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
  if not classes:
    raise errors.UsageError(f'{folder} has no class folders')
  return classes


def _list(folder: epath.Path, names: list[str]) -> Files:
  paths: list[epath.Path] = []
  labels: list[int] = []
  for label, name in enumerate(names):
    files = sorted(
      path
      for path in (folder / name).iterdir()
      if path.suffix.lower() in SUFFIXES
    )
    if not files:
      raise errors.UsageError(
        f'class folder {folder / name} holds no image ({", ".join(SUFFIXES)})'
      )
    paths += files
    labels += [label] * len(files)
  return Files(tuple(paths), np.array(labels, np.int32))


def _common_size(root: epath.Path, images: Files, sample: range) -> int:
  shapes = {images.read(i)[0].shape[:2] for i in sample}
  if len(shapes) == 1 and len(set(*shapes)) == 1:
    return shapes.pop()[0]
  raise errors.ArgumentError(
    f'image_size=0: the images of {root} differ in size or are not square; '
    'give the size that networks shall see, such as 224'
  )


def _moments(
  images: Files, sample: range, size: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Returns the mean and the standard deviation of each channel.

  Args:
    images: The split.
    sample: The indices of the images that are read.
    size: The size to which an image is fitted first, in pixels.
  """
  sums = np.zeros((2, 3))
  for i in sample:
    pixels = decode.fit(images.read(i)[0], size) / 255
    sums += [pixels.mean((0, 1)), np.square(pixels).mean((0, 1))]
  mean, square = sums / len(sample)
  std = np.sqrt(np.maximum(square - mean**2, 1e-12))
  rounded = (tuple(float(x) for x in moment.round(4)) for moment in (mean, std))
  return next(rounded), next(rounded)
