"""A file of arrays: `npz:/path/file.npz`, with the keys of MedMNIST's files.

train_images, test_images   [N,H,H], [N,H,H,1] or [N,H,H,3] u8
train_labels, test_labels   [N] or [N,1], integers from 0 to K-1
val_images, val_labels      optional, of these formats; used for model selection
class_names                 optional, [K] strings; by default '0' to 'K-1'

Other keys are ignored, and nothing is ever unpickled. Opening a file reads the
headers of its arrays, its labels and, unless the normalisation is configured,
its training images.

Source of the keys: Yang et al., "MedMNIST v2", Scientific Data 10, 2023.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import functools
import json
import math
import os
import tokenize
from typing import IO, Any, NamedTuple
import zipfile
import zlib

from etils import epath
import numpy as np

from kd_jax import errors
from kd_jax.data import source
from kd_jax.runtime import digests, gcs

_SPLITS = ('train', 'val', 'test')
# The dtype that an error message recommends for each array.
_DTYPES = {
  **{f'{split}_images': 'np.uint8' for split in _SPLITS},
  **{f'{split}_labels': 'np.int64' for split in _SPLITS},
  'class_names': 'str',
}
# The exceptions that a damaged file raises. ValueError: the header or the end
# of an array is misplaced. RuntimeError: an encryption or a compression that
# NumPy never writes. The last two: a header that Python cannot parse.
_DAMAGE = (
  zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError,
  SyntaxError, tokenize.TokenError,
)  # fmt: skip
_DEFLATED = 1032  # the most bytes that a byte of zip's deflate stands for
_BLOCK = 2**24  # pixels that are counted together


class _Header(NamedTuple):
  shape: tuple[int, ...]
  dtype: np.dtype[Any]


@dataclasses.dataclass(frozen=True)
class Images:
  """A split, whose images are read from the file on first use.

  Attributes:
    path: The path of the file.
    key: The key of the images in the file.
    labels: The class indices, [N] i32.
  """

  path: epath.Path
  key: str
  labels: np.ndarray

  @functools.cached_property
  def pixels(self) -> np.ndarray:
    """All images as the file holds them, [N,H,H] or [N,H,H,C] u8."""
    return _read(self.path, self.key)

  def __getstate__(self) -> dict[str, Any]:
    """Returns the fields without the pixels.

    Every worker process reads the pixels itself.
    """
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

  def __len__(self) -> int:
    """Returns the number of images, N."""
    return len(self.labels)

  def read(self, index: int) -> tuple[np.ndarray, int]:
    """Returns the image [H,H,3] u8 at an index, and its label.

    A grey image is repeated in three channels.
    """
    image = self.pixels[index]
    if image.ndim == 2 or image.shape[-1] == 1:
      image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=-1)
    return image, int(self.labels[index])


def open_npz(
  name: str,
  image_size: int = 0,
  *,
  measured: bool = True,
  home: epath.Path | None = None,
) -> source.Source:
  """Returns a file of arrays as a data set, with all but the pixels checked.

  Args:
    name: 'npz:/path/file.npz'.
    image_size: The height and width of the network's input in pixels; 0 takes
      the images' own size. Images of another size are scaled by `decode.fit`.
    measured: Whether to compute the mean and the standard deviation of each
      channel, exactly, over all training images as the file holds them; else
      both are empty.
    home: The folder that remembers what the file held; see `digests`.

  Raises:
    UsageError: The file is missing or damaged, or its arrays are not those of a
      data set.
  """
  path = epath.Path(name.removeprefix('npz:')).expanduser()
  if os.fspath(path).startswith('gs://'):
    gcs.prepare(path)  # first of all, for the run's folder may be there too
  headers, fingerprint = _contents(path, home)
  splits = [split for split in _SPLITS if f'{split}_images' in headers]
  _check_images(path, splits, headers)
  labels = {split: _labels(path, split, headers) for split in splits}
  class_names = _class_names(path, headers, labels)
  images = {
    split: Images(path, f'{split}_images', split_labels.astype(np.int32))
    for split, split_labels in labels.items()
  }
  train = images['train']
  mean, std = _moments(path, train.pixels) if measured else ((), ())
  info = source.Info(
    name=name,
    class_names=class_names,
    image_size=image_size or headers['train_images'].shape[1],
    num_train=len(train),
    num_test=len(images['test']),
    mean=mean,
    std=std,
    num_val=len(labels.get('val', ())),
    fingerprint=fingerprint,
    place=gcs.absolute(path),
  )
  return source.Source(info, images.__getitem__)


@contextlib.contextmanager
def _archive(path: epath.Path) -> Iterator[zipfile.ZipFile]:
  """Opens a file, and raises UsageError for any failure while it is read."""
  try:
    with path.open('rb') as file, zipfile.ZipFile(file) as archive:
      yield archive
  except OSError as error:
    raise errors.UsageError(
      f'cannot read {path}: {error.strerror or error}; give npz:/path/file.npz'
    ) from error
  except _DAMAGE as error:
    raise errors.UsageError(
      f'{path} is no npz file, or a damaged one ({error}); fetch it again, or '
      'write it with np.savez'
    ) from error


def _contents(
  path: epath.Path, home: epath.Path | None
) -> tuple[dict[str, _Header], str]:
  """Returns the headers of the known arrays by key, and a fingerprint.

  The fingerprint is computed from the CRC-32 of every array in the directory of
  the zip file, without reading the arrays; it does not depend on the
  compression.

  Raises:
    UsageError: The file is missing or damaged, lacks a key, or has an object
      array.
  """
  headers = {}
  with _archive(path) as archive:
    members = {
      member.filename.removesuffix('.npy'): member
      for member in archive.infolist()
      if member.filename.endswith('.npy')
    }
    for key in sorted(members.keys() & _DTYPES.keys()):
      with archive.open(members[key]) as file:
        headers[key] = _header(file)
      _check_size(key, headers[key], members[key], path.stat().length)
  _check_keys(path, list(members))
  for key, header in headers.items():
    if header.dtype.hasobject:
      raise errors.UsageError(
        f'{path}: {key} is an object array, which is never unpickled; write '
        f'it as np.array({key}, dtype={_DTYPES[key]})'
      )
  sums = {
    key: f'{members[key].CRC} {members[key].file_size}' for key in headers
  }
  text = json.dumps(
    [(key, members[key].CRC, members[key].file_size) for key in headers]
  )
  return headers, digests.of_contents(sums, home, text)


def _check_size(
  key: str, header: _Header, member: zipfile.ZipInfo, length: int
) -> None:
  """Checks that a file can hold an array, before memory is taken for it.

  Args:
    key: The array's key.
    header: Its shape and dtype.
    member: Its entry in the file.
    length: The bytes of the file.

  Raises:
    ValueError: The file is too small.
  """
  shape, dtype = header
  size = 0 if dtype.hasobject else math.prod(shape) * dtype.itemsize
  most = min(member.file_size, _DEFLATED * length)
  if size > most or min(shape, default=0) < 0:
    raise ValueError(
      f'{key} is said to have shape {list(shape)}, {size} bytes, and {most} '
      'are the most that it can hold'
    )


def _header(file: IO[bytes]) -> _Header:
  """Returns the shape and the dtype of an array without reading its data.

  Args:
    file: The array in npy format.

  Raises:
    ValueError: The version of the npy format is unknown.
  """
  readers = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  version = np.lib.format.read_magic(file)
  if version not in readers:  # written only for dtypes with named fields
    raise ValueError(f'an array of npy version {version}')
  shape, _, dtype = readers[version](file)
  return _Header(shape, dtype)


def _read(path: epath.Path, key: str) -> np.ndarray:
  with _archive(path) as archive, archive.open(f'{key}.npy') as file:
    return np.lib.format.read_array(file, allow_pickle=False)


def _check_keys(path: epath.Path, keys: Sequence[str]) -> None:
  needed = ['train_images', 'train_labels', 'test_images', 'test_labels']
  if {'val_images', 'val_labels'} & set(keys):
    needed += ['val_images', 'val_labels']
  if missing := [key for key in needed if key not in keys]:
    present = ', '.join(keys[:10]) or 'no array'
    raise errors.UsageError(
      f'{path} lacks {", ".join(missing)}; it holds {present}; write it with '
      f'np.savez(file, {", ".join(f"{key}=..." for key in needed)})'
    )


def _check_images(
  path: epath.Path, splits: Sequence[str], headers: dict[str, _Header]
) -> None:
  train_shape = headers['train_images'].shape
  for key in (f'{split}_images' for split in splits):
    shape, dtype = headers[key]
    if dtype != np.uint8:
      raise errors.UsageError(
        f'{path}: {key} has dtype {dtype}; write pixels as uint8, 0 to 255'
      )
    supported = len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))
    if not supported or shape[1] != shape[2] or 0 in shape:
      raise errors.UsageError(
        f'{path}: {key} has shape {list(shape)}; give one or more square '
        'images as [N,H,H], [N,H,H,1] or [N,H,H,3], channels last'
      )
    if shape[1:] != train_shape[1:]:
      raise errors.UsageError(
        f'{path}: {key} has images of {list(shape[1:])}, and train_images of '
        f'{list(train_shape[1:])}; give all splits one shape'
      )


def _labels(
  path: epath.Path, split: str, headers: dict[str, _Header]
) -> np.ndarray:
  """Returns the labels of a split, [N] of any integer dtype.

  Raises:
    UsageError: The shape or the dtype is not that of class indices.
  """
  key, count = f'{split}_labels', headers[f'{split}_images'].shape[0]
  shape, dtype = headers[key]
  if dtype.kind not in 'iu':  # which a time is not
    raise errors.UsageError(
      f'{path}: {key} has dtype {dtype}; give class indices of an integer dtype'
    )
  if shape not in ((count,), (count, 1)):
    raise errors.UsageError(
      f'{path}: {key} has shape {list(shape)} for {count} images; give each '
      'image one class index, [N] or [N,1] (several labels are not supported)'
    )
  return _read(path, key).reshape(-1)


def _class_names(
  path: epath.Path, headers: dict[str, _Header], labels: dict[str, np.ndarray]
) -> tuple[str, ...]:
  """Returns the names of all classes.

  Raises:
    UsageError: A class has no training image, a label has no class, or the
      names are no vector of strings.
  """
  count = max(1, int(labels['train'].max()) + 1)
  origin = 'train_labels'
  if 'class_names' in headers:
    shape, dtype = headers['class_names']
    if len(shape) != 1 or dtype.kind != 'U':
      raise errors.UsageError(
        f'{path}: class_names has dtype {dtype} and shape {list(shape)}; write '
        'it as np.array(class_names, dtype=str), [K]'
      )
    (count,), origin = shape, 'class_names'
  for split, indices in labels.items():
    source.check_labels(
      indices,
      count,
      f'{path}: {split}_labels',
      f'by {origin} there are {count} classes, which count from 0',
    )
  present = np.unique(labels['train'])
  if len(present) < count:
    gaps = np.flatnonzero(present != np.arange(len(present)))
    empty = gaps[0] if gaps.size else len(present)
    raise errors.UsageError(
      f'{path}: class {empty} of {count} has no training image; number the '
      'classes from 0 without a gap, and give each an image in train_images'
    )
  if 'class_names' in headers:
    return tuple(str(name) for name in _read(path, 'class_names'))
  return tuple(str(k) for k in range(count))


def _moments(
  path: epath.Path, pixels: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Returns the mean and the standard deviation of three channels.

  Args:
    path: The path of the file, for the error message.
    pixels: The training images, [N,H,H] or [N,H,H,C] u8.

  Returns:
    Three means and three standard deviations, of pixels scaled to 0..1.

  Raises:
    UsageError: A channel is constant.
  """
  channels = pixels.shape[3] if pixels.ndim == 4 else 1
  counts = np.zeros((channels, 256), np.int64)
  block_size = max(1, _BLOCK // pixels[0].size)
  for start in range(0, len(pixels), block_size):
    block = pixels[start : start + block_size].reshape(-1, channels)
    for histogram, values in zip(counts, block.T, strict=True):
      histogram += np.bincount(values, minlength=256)
  levels, weights = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
  mean = (weights * levels).sum(axis=1)
  std = np.sqrt((weights * (levels - mean[:, None]) ** 2).sum(axis=1))
  mean, std = mean.round(4), std.round(4)
  if not std.all():
    raise errors.UsageError(
      f'{path}: a channel of train_images has one value only, so that it has '
      'no standard deviation; give mean and std'
    )
  repeats = 3 // channels
  return tuple(mean.tolist()) * repeats, tuple(std.tolist()) * repeats
