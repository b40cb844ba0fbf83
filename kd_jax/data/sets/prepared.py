"""Data sets in tfds's layout: found, prepared on demand, read by index."""

import dataclasses
import functools
import os
from typing import Any

from etils import epath
import numpy as np
import tensorflow_datasets as tfds

from kd_jax import errors
from kd_jax.data import decode, source
from kd_jax.data.sets import archive, builders
from kd_jax.runtime import locks

# Mean and standard deviation as the field uses them.
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NORMALISATION = {
  'cifar10': ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
  'cifar100': ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
  'tiny_imagenet': ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262)),
}
_SCAN = 10_000  # records read together

# Where the split that is tested on is not 'test'.
TEST_SPLITS = {'imagenet2012': 'validation'}


@dataclasses.dataclass(frozen=True)
class Records:
  """A split of a prepared data set.

  Attributes:
    folder: of the prepared data set.
    split: its name there.
    size: images.
  """

  folder: str
  split: str
  size: int

  @functools.cached_property
  def _records(self) -> Any:
    """Encoded images with labels; opened where it is first read."""
    builder = tfds.builder_from_directory(self.folder)
    skip = {'image': tfds.decode.SkipDecoding()}
    return builder.as_data_source(self.split, decoders=skip)

  def __getstate__(self) -> dict[str, Any]:
    """Without the open files: every worker process opens its own."""
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

  @functools.cached_property
  def labels(self) -> np.ndarray:
    """Class indices [N] i32; reads every record, for stratified parts."""
    found: list[int] = []
    for start in range(0, self.size, _SCAN):
      some = list(range(start, min(start + _SCAN, self.size)))
      found += [r['label'] for r in self._records.__getitems__(some)]
    return np.array(found, np.int32)

  def __len__(self) -> int:
    """N."""
    return self.size

  def read(self, index: int) -> tuple[np.ndarray, int]:
    """The decoded image [h,w,3] u8, and its label."""
    record = self._records[index]
    where = f'{index} of {self.split} in {self.folder}'
    return decode.decode(bytes(record['image']), where), int(record['label'])


def root(data_dir: str) -> epath.Path:
  """Where prepared data sets are: the argument, tfds's variable or default."""
  given = data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  return epath.Path(given).expanduser()


def open_prepared(
  name: str,
  *,
  data_dir: str = '',
  archive_path: str = '',
  any_checksum: bool = False,
  image_size: int = 0,
) -> source.Source:
  """Opens a data set that is prepared, or that `builders` can prepare.

  Args:
    name: of the data set.
    data_dir: where data sets are prepared; see `root`.
    archive_path: where its archive is; '' is the download folder.
    any_checksum: take that archive whatever its checksum.
    image_size: of the network's input; 0 is the data set's own.

  Raises:
    UsageError: where it is not to be had, or needs TensorFlow to be read.
  """
  home = root(data_dir)
  folder = find(name, home)
  if folder is None:
    folder = _prepare(name, home, archive_path, any_checksum)
  builder = tfds.builder_from_directory(str(folder))
  if builder.info.file_format.value != 'array_record':
    raise errors.UsageError(
      f'{folder} is prepared as {builder.info.file_format.value}, which only '
      'TensorFlow reads; prepare it with file_format=array_record, or give '
      'another config.data.data_dir'
    )
  splits = builder.info.splits
  test = TEST_SPLITS.get(name, 'test' if 'test' in splits else 'validation')
  if missing := {'train', test} - set(splits):
    raise errors.UsageError(f'{folder} has no split {", ".join(missing)}')
  shape = builder.info.features['image'].shape
  size = image_size or shape[0]
  if not image_size and shape[0] != shape[1]:
    size = 0
  if not size:
    raise errors.UsageError(
      f'the images of {name} have no common square size; say what networks '
      'shall see by config.data.image_size, such as 224'
    )
  mean, std = NORMALISATION.get(name, IMAGENET)
  found = {
    role: Records(str(folder), split, splits[split].num_examples)
    for role, split in (('train', 'train'), ('test', test))
  }
  info = source.Info(
    name=name,
    class_names=tuple(builder.info.features['label'].names),
    image_size=size,
    num_train=len(found['train']),
    num_test=len(found['test']),
    mean=mean,
    std=std,
  )
  return source.Source(info, found.__getitem__)


def find(name: str, home: epath.Path) -> epath.Path | None:
  """The newest complete version of a prepared data set, or None."""
  folder = home / name
  if not folder.is_dir():
    return None
  versions = {
    tuple(int(part) for part in path.parent.name.split('.')): path.parent
    for path in folder.glob('*/dataset_info.json')
    if path.parent.name.replace('.', '').isdigit()
  }
  return versions[max(versions)] if versions else None


def _prepare(
  name: str, home: epath.Path, archive_path: str, any_checksum: bool
) -> epath.Path:
  """Prepares a data set once, whoever else wants it at the same time.

  tfds writes into a folder of another name and renames it at the end, so that
  an interrupted preparation is never taken for a complete one.
  """
  if name not in builders.BUILDERS:
    there = [p.name for p in home.iterdir()] if home.is_dir() else []
    raise errors.unknown('data set', name, {*builders.BUILDERS, *there})
  home.mkdir(parents=True, exist_ok=True)
  with locks.hold(home / f'.{name}.lock', wait=True):
    folder = find(name, home)
    if folder is not None:
      return folder
    for left in home.glob(f'{name}/incomplete.*'):
      left.rmtree()  # ours alone under the lock
    builder = builders.BUILDERS[name](
      data_dir=str(home), file_format='array_record'
    )
    builder.archive_path = archive.obtain(
      builder.PUBLISHED,
      home / 'downloads' / name,
      path=archive_path,
      any_checksum=any_checksum,
    )
    print(f'preparing {name} in {home}', flush=True)
    tfds.disable_progress_bar()
    builder.download_and_prepare()
    found = find(name, home)
    assert found is not None
    return found
