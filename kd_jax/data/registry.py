"""Data sets by name."""

from collections.abc import Callable
import difflib
import functools
import inspect
from typing import Any

import numpy as np

from kd_jax import errors
from kd_jax.data import masks, source
from kd_jax.data.sets import (
  builders,
  digits,
  folder,
  imagenet,
  npz,
  prepared,
  scenes,
  voc,
  voc_boxes,
)
from kd_jax.runtime import run_dir

# What the names of data sets in a folder or a file begin with.
PLACES = ('folder:', 'npz:', 'voc:', 'voc_boxes:')

# The names that `open_source` takes, and what they stand for.
SETS = {
  'digits': 'embedded: 1,797 digits of 8x8 pixels (scikit-learn), 10 classes',
  'scenes_segmentation': 'embedded: 3,300 scenes of 48x48 pixels with masks',
  'scenes_detection': 'embedded: the same scenes with boxes',
  'cifar10': '60,000 images of 32x32 pixels, 10 classes',
  'cifar100': '60,000 images of 32x32 pixels, 100 classes',
  'tiny_imagenet': '110,000 images of 64x64 pixels, 200 classes',
  'imagenet2012': '1.3 million images, 1000 classes; see `kd-jax prepare`',
  'folder:/path': 'image files: /path/train/<class>/*, also val/ and test/',
  'npz:/path/file.npz': 'arrays: train_images, train_labels, test_images, ...',
  'voc:/path': 'Pascal VOC 2012 for segmentation, with SBD if it is there',
  'voc_boxes:/path': 'Pascal VOC 2007 and 2012 for detection',
  'package.module:name': "a function of the user's own that returns a Source",
  '<name>': 'what tensorflow-datasets has prepared as array_record',
  '<name>?label=KEY&image=KEY': 'the same, with other features of it',
}

# What opens the data sets that scikit-learn or kd_jax bring along.
_EMBEDDED: dict[str, Callable[[], source.Source]] = {
  'digits': digits.open_source,
  **{
    info.name: functools.partial(scenes.open_source, task)
    for task, info in scenes.INFOS.items()
  },
}

# The seed of the subsets that `train_size` and `val_fraction` take; it does not
# depend on the seed of the run.
SUBSET_SEED = 0

# The facts of the folders and files that are open in this process, by the
# arguments of `open_source`.
_OPENED: dict[tuple[Any, ...], source.Info] = {}


def facts(name: str, image_size: int = 0) -> tuple[int, int] | None:
  """Returns facts about a data set that are known before it is prepared.

  Args:
    name: The name of the data set.
    image_size: The wanted image size in pixels; 0 takes the data set's own.

  Returns:
    The number of classes and the image size in pixels; None where they are
    known only once the data set is opened.
  """
  if name in builders.BUILDERS:
    builder = builders.BUILDERS[name]
    return builder.CLASSES, image_size or builder.IMAGE_SIZE
  return None


def is_imported(name: str) -> bool:
  """Returns whether a data set's name is that of a function to import."""
  return not name.startswith(PLACES) and ':' in name.partition('?')[0]


@functools.cache
def open_source(
  name: str,
  *,
  train_size: int = 0,
  val_fraction: float = 0.0,
  image_size: int = 0,
  mean: tuple[float, ...] = (),
  std: tuple[float, ...] = (),
  data_dir: str = '',
  archive: str = '',
  any_checksum: bool = False,
  cache_dir: str = '',
) -> source.Source:
  """Returns a data set by name; `Source.split` reads its images.

  `Info.fingerprint` says what it holds. So that only files that have changed
  are read again for it, their digests are kept; see `runtime.digests`.

  Args:
    name: 'digits', 'scenes_segmentation', 'scenes_detection', 'cifar10',
      'cifar100', 'tiny_imagenet', 'folder:/path', 'npz:/path/file.npz',
      'voc:/path', 'voc_boxes:/path', 'package.module:name' for a function of
      the user's own (see `_imported`), or any data set that tfds has prepared
      as array_record.
    train_size: The number of training images to keep, as a fixed stratified
      subset; 0 keeps all.
    val_fraction: The fraction of the training images that is held out of
      training as the split 'val', a fixed stratified subset, and evaluated in
      place of the test split until the last epoch. 0 holds out none; it must be
      0 where the data set has a split 'val' already.
    image_size: The height and width of the network's input in pixels; 0 takes
      the images' own size.
    mean: The mean of each channel, of pixels scaled to 0..1; () takes the
      data set's own.
    std: The standard deviation of each channel, of pixels scaled to 0..1; ()
      takes the data set's own.
    data_dir: The folder of prepared data sets; see `prepared.root`.
    archive: The path of the data set's archive; '' takes the file in the
      download folder, which is downloaded if it is missing.
    any_checksum: Whether to accept `archive` whatever its checksum.
    cache_dir: The folder that all runs share; see `run_dir.cache_root`.

  Raises:
    UsageError: The name is unknown, the data is missing, or a number is out of
      range.
  """
  if image_size < 0:
    raise errors.ArgumentError(
      f"image_size={image_size}: give pixels, or 0 for the images' own size"
    )
  home = run_dir.cache_root(cache_dir)
  if name in _EMBEDDED:
    whole = _EMBEDDED[name]()
    if image_size not in (0, whole.info.image_size):
      raise errors.ArgumentError(
        f'image_size={image_size}: {name} has {whole.info.image_size} pixels; '
        'give 0'
      )
  elif name.startswith('folder:'):
    whole = folder.open_folder(
      name, image_size, home, measured=not (mean and std)
    )
  elif name.startswith('npz:'):
    whole = npz.open_npz(
      name, image_size, measured=not (mean and std), home=home
    )
  elif name.startswith('voc:'):
    whole = voc.open_voc(name, image_size, home)
  elif name.startswith('voc_boxes:'):
    whole = voc_boxes.open_voc_boxes(name, image_size, home)
  elif is_imported(name):
    whole = _imported(name, image_size)
  else:
    _check_name(name, data_dir)
    whole = prepared.open_prepared(
      name,
      data_dir=data_dir,
      archive_path=archive,
      any_checksum=any_checksum,
      image_size=image_size,
      home=home,
    )
  info = whole.info
  for key, value in (('mean', mean), ('std', std)):
    if len(value) not in (0, 3):
      raise errors.ArgumentError(f'{key}={value}: give 3 numbers')
  info = info._replace(mean=mean or info.mean, std=std or info.std)
  renamed = source.Source(info, whole.split, whole.notes)
  opened = _part(renamed, train_size, val_fraction)
  if name.startswith(PLACES):
    given = (name, train_size, val_fraction, image_size, mean, std, cache_dir)
    _OPENED[given] = opened.info
  return opened


def forget_changed() -> None:
  """Closes all data sets if a folder or a file has changed since it was opened.

  A program that trains twice, or changes its working directory, then sees what
  is there now.
  """
  keys = (
    'train_size', 'val_fraction', 'image_size', 'mean', 'std', 'cache_dir'
  )  # fmt: skip
  for (name, *values), info in list(_OPENED.items()):
    options = dict(zip(keys, values, strict=True))
    try:
      same = open_source.__wrapped__(name, **options).info == info
    except errors.UsageError:
      same = False  # whoever wants it is told why
    if not same:
      _OPENED.clear()
      open_source.cache_clear()
      return


def _imported(name: str, image_size: int) -> source.Source:
  """Opens a data set by a function of the user's own.

  Args:
    name: 'package.module:name' of a function of the image size, in pixels (0
      is the images' own), that returns a `Source`.
    image_size: What the function is given.

  Raises:
    UsageError: There is no such function, or it returns something else.
  """
  make = errors.imported(*name.split(':', 1))
  try:
    inspect.signature(make).bind(image_size)
  except (TypeError, ValueError) as error:
    raise errors.UsageError(
      f'{name} is no function of the image size alone: {error}'
    ) from error
  opened = make(image_size)
  if not isinstance(opened, source.Source):
    raise errors.UsageError(
      f'{name} returns {type(opened).__name__}, not kd_jax.data.source.Source'
    )
  if not opened.info.fingerprint:
    raise errors.UsageError(
      f'{name} has no Info.fingerprint: give a digest of its images and '
      'labels, so that a run and its cached teachers see when they change'
    )
  if image_size and opened.info.image_size != image_size:
    raise errors.ArgumentError(
      f'image_size={image_size}: {name} returns images of '
      f'{opened.info.image_size} pixels; give that, or 0'
    )
  info = opened.info

  def split(part: str) -> source.Images:
    images = opened.split(part)
    if info.task == 'segmentation':
      return masks.checked(images, info, f'{name}, {part}')
    if info.task == 'classification':
      source.check_labels(
        images.labels,
        len(info.class_names),
        f'{name}, {part}',
        'correct them, or leave these images out',
      )
    return images

  return source.Source(info, split, opened.notes)


def _check_name(name: str, data_dir: str) -> None:
  """Raises UsageError, with the nearest name, for an unknown data set."""
  name, _ = prepared.parsed(name)
  if name in builders.BUILDERS or prepared.find(name, prepared.root(data_dir)):
    return
  if name == imagenet.NAME:
    raise errors.ArgumentError(
      f'data_dir={data_dir!r}: {name} is not in '
      f'{prepared.root(data_dir)}: `kd-jax prepare {name} FOLDER` writes it '
      'from its archives; or give the folder that has it'
    )
  names = [*_EMBEDDED, *builders.BUILDERS]
  matches = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
  hint = f'; did you mean {matches[0]!r}?' if matches else ''
  raise errors.UsageError(
    f'unknown data set {name!r}{hint}; there are {", ".join(names)}, '
    "'folder:/path', 'npz:/path/file.npz', 'voc:/path', 'voc_boxes:/path', and "
    f'what tfds has prepared in {prepared.root(data_dir)}'
  )


def _part(
  whole: source.Source, train_size: int, val_fraction: float
) -> source.Source:
  """Returns the source with a subset of its training images and a 'val'.

  Args:
    whole: The data set.
    train_size: See `open_source`.
    val_fraction: See `open_source`.

  Raises:
    UsageError: A number is out of range, or the data set has a 'val' already.
  """
  info = whole.info
  is_dense = info.task != 'classification'
  least, most = 1 if is_dense else len(info.class_names), info.num_train
  if train_size and not least <= train_size <= most:
    raise errors.ArgumentError(
      f'train_size={train_size}: {info.name} has {most} training '
      f'images of {least} classes; give {least} to {most}, or 0 for all'
    )
  if not 0 <= val_fraction < 1:
    raise errors.ArgumentError(
      f'val_fraction={val_fraction}: give 0 to less than 1'
    )
  if val_fraction and info.num_val:
    raise errors.ArgumentError(
      f'val_fraction={val_fraction}: {info.name} has its own '
      f"split 'val' of {info.num_val} images; give 0"
    )
  if not train_size and not val_fraction:
    return whole
  num_kept = train_size or most
  num_val = round(val_fraction * num_kept)
  if val_fraction and not least <= num_val <= num_kept - least:
    raise errors.ArgumentError(
      f'val_fraction={val_fraction} holds out {num_val} of '
      f'{num_kept} images; each part needs {least} or more, one of each class'
    )

  def split(name: str) -> source.Images:
    if name == 'test' or (name == 'val' and whole.info.num_val):
      return whole.split(name)
    images = whole.split('train')
    strata = source.strata(images.labels)
    kept = source.stratified(strata, num_kept, SUBSET_SEED)
    if num_val:
      _check_small(info, strata[kept], val_fraction, num_kept)
    positions = source.stratified(strata[kept], num_val, SUBSET_SEED, leave=1)
    if name == 'train':
      positions = np.setdiff1d(np.arange(len(kept)), positions)
    return source.Subset(images, kept[positions])

  info = info._replace(
    num_train=num_kept - num_val, num_val=num_val or info.num_val
  )
  return source.Source(info, split, whole.notes)


def _check_small(
  info: source.Info, labels: np.ndarray, val_fraction: float, num_kept: int
) -> None:
  """Raises ArgumentError if a class is too small for two parts."""
  counts = np.bincount(labels)
  if small := np.flatnonzero(counts == 1).tolist():
    names = ', '.join(info.class_names[k] for k in small[:5])
    raise errors.ArgumentError(
      f'val_fraction={val_fraction}: of {num_kept} training images '
      f'{len(small)} classes have a single one ({names}), and each part needs '
      'one of each class; give 0, or more images'
    )
