"""A folder of images: `folder:/path` with train/<class>/* and val/<class>/*."""

import dataclasses

from etils import epath
import numpy as np

from kd_jax import errors
from kd_jax.data import decode, source

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.gif', '.ppm')
# How many images tell the size and, unless configured, the normalisation.
_SAMPLE = 500


@dataclasses.dataclass(frozen=True)
class Files:
  """Image files and their labels.

  Attributes:
    paths: N of them.
    labels: class indices [N] i32.
  """

  paths: tuple[epath.Path, ...]
  labels: np.ndarray

  def __len__(self) -> int:
    """N."""
    return len(self.paths)

  def read(self, index: int) -> tuple[np.ndarray, int]:
    """The decoded image [h,w,3] u8, and its label."""
    path = self.paths[index]
    image = decode.decode(path.read_bytes(), str(path))
    return image, int(self.labels[index])


def open_folder(name: str, image_size: int = 0) -> source.Source:
  """Lists a folder; class names are those of its sub-folders, in order.

  Args:
    name: 'folder:/path'.
    image_size: of the network's input; 0 is the images' own.

  Raises:
    UsageError: for a folder that is no such data set, an empty class, or
      classes that differ between the splits.
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
    odd = sorted(set(names['train']) ^ set(names['test']))
    raise errors.UsageError(
      f'{root}: train and {test} have different classes: {", ".join(odd[:10])} '
      'in one of them only'
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
  )
  return source.Source(info, splits.__getitem__)


def _classes(folder: epath.Path) -> list[str]:
  found = sorted(p.name for p in folder.iterdir() if p.is_dir())
  if not found:
    raise errors.UsageError(f'{folder} has no class folders')
  return found


def _list(folder: epath.Path, names: list[str]) -> Files:
  paths: list[epath.Path] = []
  labels: list[int] = []
  for label, name in enumerate(names):
    files = sorted(
      p for p in (folder / name).iterdir() if p.suffix.lower() in SUFFIXES
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
  raise errors.UsageError(
    f'the images of {root} differ in size or are not square; say what networks '
    'shall see by config.data.image_size, such as 224'
  )


def _moments(
  images: Files, sample: range, size: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and standard deviation of each channel, over the sample."""
  sums = np.zeros((2, 3))
  for i in sample:
    pixels = decode.fit(images.read(i)[0], size) / 255
    sums += [pixels.mean((0, 1)), np.square(pixels).mean((0, 1))]
  mean, square = sums / len(sample)
  std = np.sqrt(np.maximum(square - mean**2, 1e-12))
  rounded = (tuple(float(x) for x in v.round(4)) for v in (mean, std))
  return next(rounded), next(rounded)
