"""A folder of images, `folder:/path`: train/<class>/* and val or test alike.

With `val` and `test` both there, `val` is for choosing and `test` for the
result. With one of them, it is both, as the split 'test'.
"""

import dataclasses
import os
import unicodedata

from etils import epath
import numpy as np

from kd_jax import errors
from kd_jax.data import decode, source
from kd_jax.data.sets import tree
from kd_jax.runtime import digests, gcs

# The most images, evenly spaced, from which the image size, unless it is
# given, and the normalisation are determined.
_SAMPLE = 500
_KNOWN = ('train', 'val', 'test')

# The folders of a split's classes, by the composed form of the class's name.
Classes = dict[str, list[epath.Path]]


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
    return decode.read(self.paths[index]), int(self.labels[index])

  def encoded(self, index: int) -> tuple[bytes, str, int]:
    """Returns the content of an image; see `source.Encoded`."""
    path = self.paths[index]
    return decode.read_bytes(path), str(path), int(self.labels[index])


def open_folder(
  name: str,
  image_size: int = 0,
  home: epath.Path | None = None,
  *,
  measured: bool = True,
) -> source.Source:
  """Returns a folder of images as a data set.

  The classes are the sub-folders of `train`, in alphabetical order. Images are
  looked for in their sub-folders too. Only those that are sampled for the size
  and the normalisation are read, and files whose names do not tell whether
  they are images.

  Args:
    name: 'folder:/path'.
    image_size: The height and width of the network's input in pixels; 0 takes
      the images' own size.
    home: The folder where digests of the files are kept; see `digests`.
    measured: Whether to compute the mean and the standard deviation of each
      channel; else both are empty.

  Returns:
    The data set. Its notes tell which folder is which split, and what is left
    out.

  Raises:
    UsageError: A split's folder is missing, a class is empty, the classes
      differ between the splits, something cannot be read, `image_size` is 0 and
      the images differ in size or are not square, or a channel is constant.
  """
  root = epath.Path(name.removeprefix('folder:')).expanduser()
  left_out = tree.LeftOut(root)
  folders = _splits(root, left_out)
  classes = {
    split: _classes(folder, left_out) for split, folder in folders.items()
  }
  for split, folder in folders.items():
    if unmatched := sorted({*classes['train']} ^ {*classes[split]}):
      raise errors.UsageError(
        f'{root}: train and {folder.name} have different classes: '
        f'{", ".join(unmatched[:10])} in one of them only; make them the same, '
        f'or move {folder} elsewhere'
      )
  # In the order, and the form, of the names of the training folders.
  names = sorted(
    (paths[0].name if len({p.name for p in paths}) == 1 else composed, composed)
    for composed, paths in classes['train'].items()
  )
  order = [composed for _, composed in names]
  splits = {split: _list(classes[split], order, left_out) for split in folders}
  train = splits['train']
  sample = range(0, len(train), -(-len(train) // _SAMPLE))
  size = image_size or _common_size(root, train, sample)
  mean, std = _moments(root, train, sample, size) if measured else ((), ())
  info = source.Info(
    name=name,
    class_names=tuple(name for name, _ in names),
    image_size=size,
    num_train=len(train),
    num_test=len(splits['test']),
    mean=mean,
    std=std,
    num_val=len(splits.get('val', ())),
    fingerprint=_fingerprint(root, order, splits, home),
    place=gcs.absolute(root),
  )
  notes = (_roles(folders, splits), str(left_out))
  return source.Source(info, splits.__getitem__, tuple(filter(None, notes)))


def _splits(root: epath.Path, left_out: tree.LeftOut) -> dict[str, epath.Path]:
  """Returns the folders of 'train', of 'val' if there are three, and of 'test'.

  Raises:
    UsageError: A folder is missing.
  """
  if not root.is_dir():
    raise errors.UsageError(
      f'{root} is no folder; give one with train/<class>/* and val/<class>/*'
    )
  present = {}
  for entry in tree.entries(root, left_out):
    if entry.is_folder and entry.path.name in _KNOWN:
      present[entry.path.name] = entry.path
    else:
      left_out.add('beside train, val and test', entry.path)
  if {'val', 'test'} <= present.keys():
    # Many sets have a test folder of images without classes.
    inside = tree.entries(present['test'], tree.LeftOut(root))
    if not any(entry.is_folder for entry in inside):
      left_out.add('without class folders', present.pop('test'))
  missing = [] if 'train' in present else [str(root / 'train')]
  if not {'val', 'test'} & present.keys():
    missing.append(str(root / 'test'))
  if missing:
    raise errors.UsageError(
      f'{root} is no image folder: there is no {" and no ".join(missing)}; it '
      'needs train/<class>/* and val/<class>/*'
    )
  if 'test' not in present:
    present['test'] = present.pop('val')
  return {split: present[split] for split in _KNOWN if split in present}


def _roles(folders: dict[str, epath.Path], splits: dict[str, Files]) -> str:
  """Returns the line that tells which folder is which split."""
  counted = {
    split: f'{folder.name}/ ({len(splits[split])} images)'
    for split, folder in folders.items()
  }
  line = f'{counted["train"]} is trained on'
  if 'val' in counted:
    return (
      f'{line}, {counted["val"]} for choosing, {counted["test"]} the result'
    )
  other = {'test': 'val', 'val': 'test'}[folders['test'].name]
  return (
    f'{line}, and {counted["test"]} is both for choosing and the result, '
    f'called test: there is no {other}/ with classes'
  )


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


def _classes(folder: epath.Path, left_out: tree.LeftOut) -> Classes:
  """Returns the class folders of a split.

  A name that is composed in one folder and decomposed in another, as copies
  between systems make them, is the same name.
  """
  classes: Classes = {}
  for entry in tree.entries(folder, left_out):
    if entry.is_folder:
      composed = unicodedata.normalize('NFC', entry.path.name)
      classes.setdefault(composed, []).append(entry.path)
    else:
      left_out.add('in no class folder', entry.path)
  if not classes:
    raise errors.UsageError(f'{folder} has no class folders')
  return classes


def _list(classes: Classes, order: list[str], left_out: tree.LeftOut) -> Files:
  paths: list[epath.Path] = []
  labels: list[int] = []
  for label, name in enumerate(order):
    files = [f for place in classes[name] for f in tree.images(place, left_out)]
    if not files:
      raise errors.UsageError(
        f'class folder {classes[name][0]} holds no image '
        f'({", ".join(decode.SUFFIXES)}, or such content)'
        + (f'; {left_out}' if str(left_out) else '')
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
  root: epath.Path, images: Files, sample: range, size: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Returns the mean and the standard deviation of each channel.

  Args:
    root: The data set's folder, for the error message.
    images: The split.
    sample: The indices of the images that are read.
    size: The size to which an image is fitted first, in pixels.

  Raises:
    UsageError: A channel is constant.
  """
  sums = np.zeros((2, 3))
  for i in sample:
    pixels = decode.fit(images.read(i)[0], size) / 255
    sums += [pixels.mean((0, 1)), np.square(pixels).mean((0, 1))]
  mean, square = sums / len(sample)
  std = np.sqrt(np.maximum(square - mean**2, 0)).round(4)
  if not std.all():
    raise errors.UsageError(
      f'{root}: a channel of the images in train has one value only, so that '
      'it has no standard deviation; give mean and std'
    )
  return tuple(mean.round(4).tolist()), tuple(std.tolist())
