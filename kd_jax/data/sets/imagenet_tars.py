"""ILSVRC 2012's own archives: where each image lies, and its class.

A tar holds its files as they are, one after the other. So an image is read from
its place in the archive, and nothing is unpacked: the training archive holds a
tar for each class, whose images lie in it in the same way.

Source: Russakovsky et al., IJCV 2015 (ImageNet); the development kit's readme.
"""

from collections.abc import Iterator, Sequence
import io
import os
import pathlib
import re
import tarfile
from typing import NamedTuple

from etils import epath
import scipy.io
import tensorflow_datasets as tfds

from kd_jax import errors
from kd_jax.data.sets import archive
from kd_jax.runtime import downloads

CLASSES = 1000
COUNTS = {'train': 1_281_167, 'validation': 50_000}
_SITE = 'https://image-net.org/data/ILSVRC/2012'
# The checksums that the site of the challenge states.
PUBLISHED = {
  'train': downloads.Published(
    f'{_SITE}/ILSVRC2012_img_train.tar',
    'md5',
    '1d675b47d978889d74fa0da5fadfb00e',
    147_897_477_120,
  ),
  'validation': downloads.Published(
    f'{_SITE}/ILSVRC2012_img_val.tar',
    'md5',
    '29b22e2961454d5413ddabcf34fc5622',
    6_744_924_160,
  ),
}
DEVKIT = downloads.Published(
  f'{_SITE}/ILSVRC2012_devkit_t12.tar.gz',
  'md5',
  'fa75699e90414af021442c21a62c3abf',
)
_TRUTH, _META = 'ILSVRC2012_validation_ground_truth.txt', 'meta.mat'
_MOST = 2**26  # bytes of a list of labels, of meta.mat and of the kit
_SUFFIX = '.JPEG'
_WNID = re.compile(r'n\d{8}')
_BROKEN = (tarfile.TarError, EOFError, OSError, ValueError)


class Place(NamedTuple):
  """Where an image, or the tar of a class, lies in an archive.

  Attributes:
    name: The name without folders, such as 'n01440764_18.JPEG'.
    offset: The position of its first byte.
    size: The number of bytes.
  """

  name: str
  offset: int
  size: int


def places(path: pathlib.Path, within: Place | None = None) -> list[Place]:
  """Returns where the files of a tar lie, by the headers alone.

  Args:
    path: The archive, which must not be compressed.
    within: The tar inside the archive to look into; None is the archive.

  Raises:
    UsageError: It is no tar, is cut off, or has members that are no files.
  """
  try:
    with open(path, 'rb', buffering=0) as file:
      end = file.seek(0, os.SEEK_END)
      if within is not None:
        end = within.offset + within.size
      file.seek(within.offset if within else 0)
      return list(_places(file, end))
  except _BROKEN as error:
    inside = f' ({within.name} in it)' if within else ''
    raise errors.UsageError(
      f'{path}{inside} is no whole tar of files: {error or "it is cut off"}; '
      'fetch it again, and do not compress it'
    ) from error


def _places(file: io.FileIO, end: int) -> Iterator[Place]:
  with tarfile.open(fileobj=file, mode='r:') as tar:
    for member in tar:
      if member.isdir():
        continue
      name = member.name.rsplit('/', 1)[-1]
      if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise ValueError(f'{name} is no plain file')
      if member.offset_data + member.size > end:
        raise ValueError(f'{name} reaches beyond the end')
      if not name.startswith('.'):  # what macOS adds
        yield Place(name, member.offset_data, member.size)


def class_tars(path: pathlib.Path) -> dict[str, Place]:
  """Returns the tars of the training archive by wnid, in order.

  Raises:
    UsageError: A member is no 'n01234567.tar', or is there twice.
  """
  found: dict[str, Place] = {}
  for place in places(path):
    wnid, suffix = os.path.splitext(place.name)
    if suffix != '.tar' or not _WNID.fullmatch(wnid) or wnid in found:
      raise errors.UsageError(
        f'{path} holds {errors.shown(place.name)}, and should hold one tar '
        'n01234567.tar for each class: give ILSVRC2012_img_train.tar as it is '
        'published'
      )
    found[wnid] = place
  return dict(sorted(found.items()))


def validation_labels(
  names: Sequence[str], source: pathlib.Path | None
) -> dict[str, str]:
  """Returns the wnid of each validation image, by name.

  Args:
    names: The names of the images.
    source: The development kit (.tar.gz, or the folder that it is unpacked to)
      or a text file: a wnid in each line, in the order of the names, or a name
      and a wnid. None takes the list that comes with tensorflow-datasets.

  Raises:
    UsageError: The file cannot be read, or does not label each image.
  """
  ordered = sorted(names)
  if source is None:
    source = pathlib.Path(
      tfds.core.tfds_path('datasets/imagenet2012/validation_labels.txt')
    )
  if source.is_dir() or source.name.endswith(('.tar.gz', '.tgz', '.tar')):
    rows = [[wnid] for wnid in _of_kit(source)]
  else:
    lines = _text(source).splitlines()
    rows = [re.split(r'[\s,]+', line.strip()) for line in lines if line.strip()]
  if rows and all(len(row) == 1 for row in rows):
    if len(rows) != len(ordered):
      raise errors.UsageError(
        f'{source} has {len(rows)} labels for {len(ordered)} validation images'
        '; give the list of these images, a wnid in each line or a name and a '
        'wnid'
      )
    rows = [[n, *row] for n, row in zip(ordered, rows, strict=True)]
  found = {row[0].removesuffix(_SUFFIX): row[1] for row in rows}
  labels = {n: found.get(n.removesuffix(_SUFFIX), '') for n in names}
  for name, wnid in labels.items():
    if not _WNID.fullmatch(wnid):
      raise errors.UsageError(
        f'{source} gives {name} the label {errors.shown(wnid)!r}: give a wnid '
        'such as n01440764 for each image, or the development kit, whose '
        'numbers are not in the order of the wnids'
      )
  return labels


def _of_kit(source: pathlib.Path) -> list[str]:
  """Returns the wnids of the validation images, in the order of their names.

  The kit's list has ILSVRC's own ids, which its meta.mat maps to wnids.
  """
  try:
    if source.is_dir():
      files = {
        name: next(source.rglob(name)).read_bytes() for name in (_META, _TRUTH)
      }
    else:
      files = archive.tar_members(
        epath.Path(source), {_META: _MOST, _TRUTH: _MOST}, _MOST
      )
    meta = scipy.io.loadmat(
      io.BytesIO(files[_META]), variable_names=('synsets',), squeeze_me=True
    )['synsets']
    wnids = {int(row['ILSVRC2012_ID']): str(row['WNID']) for row in meta}
    return [wnids[int(line)] for line in files[_TRUTH].split()]
  except Exception as error:  # what other content raises is open
    raise errors.UsageError(
      f'{source} is no development kit of ILSVRC 2012, with {_META} and '
      f'{_TRUTH} ({type(error).__name__}: {error}); fetch it again: {DEVKIT}'
    ) from error


def _text(path: pathlib.Path) -> str:
  try:
    with path.open('rb') as file:
      return file.read(_MOST).decode()
  except (OSError, UnicodeDecodeError) as error:
    raise errors.UsageError(
      f'cannot read the labels in {path}: {error}; give a text file, or the '
      'development kit'
    ) from error
