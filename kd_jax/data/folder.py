"""A folder of images: `folder:/path` with train/<class>/* and val/<class>/*."""

import dataclasses

from etils import epath
import numpy as np

from kd_jax import errors
from kd_jax.data import decode, source

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.gif', '.ppm')
# How many images tell the size and, unless configured, the normalisation.
_SAMPLE = 1000


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

  def read(self, index: int) -> np.ndarray:
    """The decoded image [h,w,3] u8."""
    path = self.paths[index]
    return decode.decode(path.read_bytes(), str(path))


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
  step = -(-len(train) // _SAMPLE)
  sample = [train.read(i) for i in range(0, len(train), step)]
  size = image_size or _common_size(root, sample)
  pixels = np.stack([decode.fit(image, size) for image in sample]) / 255
  info = source.Info(
    name=name,
    class_names=tuple(names['train']),
    image_size=size,
    num_train=len(train),
    num_test=len(splits['test']),
    mean=tuple(float(x) for x in pixels.mean((0, 1, 2)).round(4)),
    std=tuple(float(x) for x in pixels.std((0, 1, 2)).round(4)),
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


def _common_size(root: epath.Path, images: list[np.ndarray]) -> int:
  shapes = {image.shape[:2] for image in images}
  if len(shapes) == 1 and len(set(*shapes)) == 1:
    return shapes.pop()[0]
  raise errors.UsageError(
    f'the images of {root} differ in size or are not square; say what networks '
    'shall see by config.data.image_size, such as 224'
  )
