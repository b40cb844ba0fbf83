"""Data sets in tfds's layout, prepared on demand and read by index."""

import contextlib
import dataclasses
import functools
import os
from typing import Any

from etils import epath
import numpy as np
import tensorflow_datasets as tfds

from kd_jax import errors
from kd_jax.data import decode, source
from kd_jax.data.sets import archive, builders, identity
from kd_jax.runtime import gcs, locks, screen

# The means and standard deviations that are commonly used for these data sets.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NORMALISATION = {
  'cifar10': ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
  'cifar100': ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
  'tiny_imagenet': ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
}
_SCAN = 10_000  # records read together
# The size in bytes up to which all labels of a split are checked as it is
# opened; those of a larger one are checked as its images are read.
_SMALL = 2**30
_CURE = 'leave these images out as you prepare it'
_KEYS = {'image': 'image', 'label': 'label'}  # of the features, unless named
_LOCK = '.{}.lock'  # in the folder of prepared data sets, while one is prepared

# The split to test on, for data sets in which it is not 'test'.
TEST_SPLITS = {'imagenet2012': 'validation'}


@dataclasses.dataclass(frozen=True)
class Records:
  """A split of a prepared data set.

  Attributes:
    folder: The folder of the prepared data set.
    split: The name of the split in that folder.
    size: The number of images.
    classes: The number of classes, K; 0 if any label is one.
    image: The key of the images.
    label: The key of the labels.
  """

  folder: str
  split: str
  size: int
  classes: int = 0
  image: str = 'image'
  label: str = 'label'

  @functools.cached_property
  def _records(self) -> Any:
    """The encoded images with labels; opened on first use."""
    builder = tfds.builder_from_directory(self.folder)
    features = builder.info.features
    skip = {
      key: tfds.decode.SkipDecoding()
      for key in features
      if isinstance(features[key], tfds.features.Image)
    }
    return builder.as_data_source(self.split, decoders=skip)

  def __getstate__(self) -> dict[str, Any]:
    """Returns the fields without the open files.

    Every worker process opens the files itself.
    """
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

  @functools.cached_property
  def labels(self) -> np.ndarray:
    """The class indices, [N] i32.

    They are read from all records, and used for stratified subsets.

    Raises:
      UsageError: A label is no class.
    """
    labels: list[int] = []
    for start in range(0, self.size, _SCAN):
      indices = list(range(start, min(start + _SCAN, self.size)))
      labels += [r[self.label] for r in self._records.__getitems__(indices)]
    if self.classes:
      where = f'{self.folder}, {self.split}'
      source.check_labels(np.array(labels), self.classes, where, _CURE)
    return np.array(labels, np.int32)

  def __len__(self) -> int:
    """Returns the number of images, N."""
    return self.size

  def read(self, index: int) -> tuple[np.ndarray, int]:
    """Returns the decoded image [h,w,3] u8 at an index, and its label.

    Raises:
      UsageError: The image cannot be decoded, or the label is no class.
    """
    content, where, label = self.encoded(index)
    return decode.decode(content, where), label

  def encoded(self, index: int) -> tuple[bytes, str, int]:
    """Returns the content of an image; see `source.Encoded`.

    Raises:
      UsageError: The label is no class.
    """
    record = self._records[index]
    where = f'{index} of {self.split} in {self.folder}'
    label = int(record[self.label])
    if self.classes and not 0 <= label < self.classes:
      source.check_labels(np.array([label]), self.classes, where, _CURE)
    return bytes(record[self.image]), where, label


def root(data_dir: str) -> epath.Path:
  """Returns the folder of prepared data sets.

  Args:
    data_dir: The folder; '' takes the environment variable TFDS_DATA_DIR, or
      tfds's default.

  Raises:
    UsageError: The folder is in a bucket that is not Google's, or gcsfs is
      missing.
  """
  path = data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  if gcs.is_bucket(path):
    gcs.prepare(path)
  return epath.Path(path).expanduser()


def open_prepared(
  name: str,
  *,
  data_dir: str = '',
  archive_path: str = '',
  any_checksum: bool = False,
  image_size: int = 0,
  home: epath.Path | None = None,
) -> source.Source:
  """Returns a data set that is prepared, or that `builders` can prepare.

  Args:
    name: The name of the data set; 'name?label=key&image=key' names the
      features to read, where a label may also be a plain whole number.
    data_dir: The folder of prepared data sets; see `root`.
    archive_path: The path of the data set's archive; '' takes the file in
      the download folder, which is downloaded if it is missing.
    any_checksum: Whether to accept the archive whatever its checksum.
    image_size: The height and width of the network's input in pixels; 0 takes
      the data set's own size.
    home: The folder where digests of the files are kept; see `digests`.

  Raises:
    UsageError: The data set is neither prepared nor known, its archive cannot
      be obtained, it lacks a split or a feature, a label is no class, only
      TensorFlow can read it, or `image_size` is 0 and its images have no common
      square size.
  """
  full_name, prepared_root = name, root(data_dir)
  name, keys = parsed(name)
  folder = find(name, prepared_root)
  if folder is None:
    folder = _prepare(name, prepared_root, archive_path, any_checksum)
  elif name in builders.BUILDERS and not (folder / identity.ORIGIN).exists():
    _wait(name, prepared_root)
  builder = tfds.builder_from_directory(str(folder))
  if builder.info.file_format.value != 'array_record':
    raise errors.ArgumentError(
      f'data_dir={data_dir!r}: {folder} is prepared as '
      f'{builder.info.file_format.value}, which only TensorFlow reads; prepare '
      'it with file_format=array_record, or give another folder'
    )
  fingerprint = identity.fingerprint(folder, home)
  splits = builder.info.splits
  test_split = TEST_SPLITS.get(
    name, 'test' if 'test' in splits else 'validation'
  )
  if missing := {'train', test_split} - set(splits):
    raise errors.UsageError(f'{folder} has no split {", ".join(missing)}')
  shape = _image(name, builder.info.features, keys['image']).shape
  size = image_size or shape[0]
  if not image_size and shape[0] != shape[1]:
    size = 0
  if not size:
    raise errors.ArgumentError(
      f'image_size=0: the images of {name} have no common square size; give '
      'the size that networks shall see, such as 224'
    )
  mean, std = NORMALISATION.get(name, IMAGENET)
  class_names = _label(
    name, builder.info.features, keys['label'], 'label=' in full_name
  )
  records = {
    role: Records(
      str(folder), split, splits[split].num_examples, len(class_names), **keys
    )
    for role, split in (('train', 'train'), ('test', test_split))
  }
  if not class_names:
    class_names = _numbered(full_name, records['train'].labels)
    records = {
      role: dataclasses.replace(split, classes=len(class_names))
      for role, split in records.items()
    }
  if name not in builders.BUILDERS:  # which check the labels they write
    for split in records.values():
      if splits[split.split].num_bytes <= _SMALL:
        _ = split.labels
  info = source.Info(
    name=full_name,
    class_names=class_names,
    image_size=size,
    num_train=len(records['train']),
    num_test=len(records['test']),
    mean=mean,
    std=std,
    fingerprint=fingerprint,
    place=gcs.absolute(prepared_root),
  )
  return source.Source(info, records.__getitem__, _counted(name, info))


def _counted(name: str, info: source.Info) -> tuple[str, ...]:
  """Returns a line if a published data set has another number of images."""
  if name not in builders.BUILDERS:
    return ()
  here = {'train': info.num_train, 'test': info.num_test}
  published = builders.BUILDERS[name].COUNTS
  if here == published:
    return ()
  return (
    f'{name} is published with {published["train"]} training and '
    f'{published["test"]} test images, so that these are other data',
  )


def parsed(name: str) -> tuple[str, dict[str, str]]:
  """Returns a data set's own name, and the keys of its 'image' and 'label'.

  Args:
    name: The name, such as 'mnist' or 'clevr?label=count'.

  Raises:
    UsageError: What follows the '?' is no such key.
  """
  base, _, query = name.partition('?')
  keys = dict(_KEYS)
  for part in filter(None, query.split('&')):
    role, equals, key = part.partition('=')
    if role not in keys or not equals or not key:
      raise errors.UsageError(
        f'{name}: {part!r} names no feature; give {base}?label=KEY, '
        f'{base}?image=KEY or {base}?label=KEY&image=KEY'
      )
    keys[role] = key
  return base, keys


def _image(name: str, features: Any, key: str) -> Any:
  """Returns the feature of the images.

  Raises:
    UsageError: It is not there, or its pixels are not of 8 or 16 bits.
  """
  kind = tfds.features.Image
  images = [k for k in features if isinstance(features[k], kind)]
  if key not in images:
    raise errors.UsageError(
      f'{name} has no images {key!r}; name them as in {name}?image=KEY (it has '
      f'{", ".join(sorted(images)) or "none"})'
    )
  feature = features[key]
  if np.dtype(feature.np_dtype) not in (np.uint8, np.uint16):
    raise errors.UsageError(
      f'{name}: {key!r} has {np.dtype(feature.np_dtype)} pixels, which have no '
      'known range; prepare them as uint8 or uint16'
    )
  return feature


def _label(name: str, features: Any, key: str, named: bool) -> tuple[str, ...]:
  """Returns the names of the classes; () where labels are plain numbers.

  Raises:
    UsageError: The label is not there, is neither a class nor a whole number,
      or is a plain number that was not asked for.
  """
  classes, numbers = [], []
  for k in features:
    feature = features[k]
    if getattr(feature, 'num_classes', None) and feature.shape == ():
      classes.append(k)
    elif feature.shape == () and np.dtype(feature.np_dtype).kind in 'iu':
      numbers.append(k)
  if key in classes:
    return tuple(features[key].names)
  if key in numbers and named:
    return ()
  has = 'numbers' if key in numbers else 'no classes'
  there = (', '.join(sorted(found)) or 'none' for found in (classes, numbers))
  raise errors.UsageError(
    f'{name} has {has} in {key!r}; name the feature to learn, as in '
    f'{name}?label=KEY (classes: {next(there)}; whole numbers, read as classes '
    f'0 to K-1: {next(there)})'
  )


def _numbered(name: str, labels: np.ndarray) -> tuple[str, ...]:
  """Returns the names of classes that plain numbers stand for.

  Raises:
    UsageError: They do not count from 0 without a gap.
  """
  present, counts = np.unique(labels, return_counts=True)
  if len(gaps := np.flatnonzero(present != np.arange(len(present)))):
    number = present[gaps[0]]
    raise errors.UsageError(
      f'{name}: the label {number} of {counts[gaps[0]]} training images should '
      f'be {gaps[0]}: numbers that are classes count from 0 without a gap; '
      'prepare them so, or name another feature'
    )
  return tuple(str(k) for k in range(len(present)))


def find(name: str, home: epath.Path) -> epath.Path | None:
  """Returns the newest complete version of a prepared data set, or None.

  Args:
    name: The name of the data set.
    home: The folder of prepared data sets.

  Returns:
    The folder of the version.
  """
  folder = home / name
  if not folder.is_dir():
    return None
  versions = {
    tuple(int(part) for part in path.parent.name.split('.')): path.parent
    for path in folder.glob('*/dataset_info.json')
    if path.parent.name.replace('.', '').isdigit()
  }
  return versions[max(versions)] if versions else None


def _wait(name: str, home: epath.Path) -> None:
  """Waits while another process may still write from what a set was made.

  tfds renames the folder before that. Without a lock's file nobody does, and
  where the lock cannot be taken the data set is opened as it is.
  """
  lock = home / _LOCK.format(name)
  with contextlib.suppress(errors.UsageError):
    if lock.exists():
      with locks.hold(lock, wait=True):
        pass


def _prepare(
  name: str, home: epath.Path, archive_path: str, any_checksum: bool
) -> epath.Path:
  """Prepares a data set and returns its folder.

  A lock ensures that concurrent processes prepare it only once. tfds writes
  into a folder of another name and renames it at the end, so that an
  interrupted preparation is never mistaken for a complete one.
  """
  if name not in builders.BUILDERS:
    present = [path.name for path in home.iterdir()] if home.is_dir() else []
    raise errors.unknown('data set', name, {*builders.BUILDERS, *present})
  home.mkdir(parents=True, exist_ok=True)
  with locks.hold(home / _LOCK.format(name), wait=True):
    folder = find(name, home)
    if folder is not None:
      return folder
    for leftover in home.glob(f'{name}/incomplete.*'):
      leftover.rmtree()  # no other process writes while the lock is held
    builder = builders.BUILDERS[name](
      data_dir=str(home), file_format='array_record'
    )
    builder.archive_path = archive.obtain(
      builder.PUBLISHED,
      home / 'downloads' / name,
      also=builder.ALSO,
      path=archive_path,
      any_checksum=any_checksum,
    )
    screen.show(errors.line(f'preparing {name} in {home}'))
    tfds.disable_progress_bar()
    builder.download_and_prepare()
    complete = find(name, home)
    assert complete is not None
    version = str(builders.BUILDERS[name].VERSION)
    identity.remember(complete, builder.archive_path, name, version)
    return complete
