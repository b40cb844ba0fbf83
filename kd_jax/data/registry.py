"""Data sets by name."""

import difflib
import functools

import numpy as np

from kd_jax import errors
from kd_jax.data import source
from kd_jax.data.sets import builders, digits, folder, npz, prepared

# What `open_source` takes, and what it is.
SETS = {
  'digits': 'embedded: 1,797 digits of 8x8 pixels (scikit-learn), 10 classes',
  'cifar10': '60,000 images of 32x32 pixels, 10 classes',
  'cifar100': '60,000 images of 32x32 pixels, 100 classes',
  'tiny_imagenet': '110,000 images of 64x64 pixels, 200 classes',
  'folder:/path': 'image files: /path/train/<class>/..., /path/test/...',
  'npz:/path/file.npz': 'arrays: train_images, train_labels, test_images, ...',
  'package.module:name': "a function of the user's own that returns a Source",
  '<name>': 'what tensorflow-datasets has prepared as array_record',
}

# Decides which images `train_size` and `val_fraction` take, whatever the seed
# of the run.
SUBSET_SEED = 0


def facts(name: str, image_size: int = 0) -> tuple[int, int] | None:
  """Classes and image size where they are known before the data is there."""
  if name in builders.BUILDERS:
    builder = builders.BUILDERS[name]
    return builder.CLASSES, image_size or builder.IMAGE_SIZE
  return None


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
) -> source.Source:
  """Opens a data set; its images are read by the source's `split`.

  Args:
    name: 'digits', 'cifar10', 'cifar100', 'tiny_imagenet', 'folder:/path',
      'npz:/path/file.npz', 'package.module:name' for a function of the user's
      own (see `_imported`), or any data set that tfds has prepared as
      array_record.
    train_size: how many training images to keep, a fixed stratified subset; 0
      keeps all.
    val_fraction: the fraction of the training images, a fixed stratified part,
      that is held out of training and takes the test split's place until the
      last epoch (split 'val'); 0 where the data set has such a split already.
    image_size: what networks see; 0 is the images' own size.
    mean: replaces the data set's; of each channel of pixels scaled to 0..1.
    std: likewise.
    data_dir: where data sets are prepared; see `prepared.root`.
    archive: where the user has the data set's archive.
    any_checksum: take that archive whatever its checksum.

  Raises:
    UsageError: for an unknown name, missing data, or an impossible number.
  """
  if image_size < 0:
    raise errors.UsageError(
      f"config.data.image_size={image_size}: give pixels, or 0 for the images' "
      'own size'
    )
  if name == 'digits':
    whole = digits.open_source()
    if image_size not in (0, whole.info.image_size):
      raise errors.UsageError(
        f'config.data.image_size={image_size}: digits has 8 pixels; give 0'
      )
  elif name.startswith('folder:'):
    whole = folder.open_folder(name, image_size)
  elif name.startswith('npz:'):
    whole = npz.open_npz(name, image_size, measured=not (mean and std))
  elif ':' in name:
    whole = _imported(name, image_size)
  else:
    _check_name(name, data_dir)
    whole = prepared.open_prepared(
      name,
      data_dir=data_dir,
      archive_path=archive,
      any_checksum=any_checksum,
      image_size=image_size,
    )
  info = whole.info
  for key, value in (('mean', mean), ('std', std)):
    if len(value) not in (0, 3):
      raise errors.UsageError(f'config.data.{key}={value}: give 3 numbers')
  info = info._replace(mean=mean or info.mean, std=std or info.std)
  return _part(source.Source(info, whole.split), train_size, val_fraction)


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
  opened = make(image_size)
  if not isinstance(opened, source.Source):
    raise errors.UsageError(
      f'{name} returns {type(opened).__name__}, not kd_jax.data.source.Source'
    )
  if image_size and opened.info.image_size != image_size:
    raise errors.UsageError(
      f'{name} has images of {opened.info.image_size} pixels for '
      f'config.data.image_size={image_size}'
    )
  return opened


def _check_name(name: str, data_dir: str) -> None:
  """Says the nearest name where nothing of this name can be had."""
  if name in builders.BUILDERS or prepared.find(name, prepared.root(data_dir)):
    return
  known = ['digits', *builders.BUILDERS]
  near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  hint = f'; did you mean {near[0]!r}?' if near else ''
  raise errors.UsageError(
    f'unknown data set {name!r}{hint} There are {", ".join(known)}, '
    "'folder:/path', 'npz:/path/file.npz', and what tfds has prepared in "
    f'{prepared.root(data_dir)}'
  )


def _part(
  whole: source.Source, train_size: int, val_fraction: float
) -> source.Source:
  """The source with a subset of its training images, and one held out."""
  info = whole.info
  least, most = len(info.class_names), info.num_train
  if train_size and not least <= train_size <= most:
    raise errors.UsageError(
      f'config.data.train_size={train_size}: {info.name} has {most} training '
      f'images of {least} classes; give {least} to {most}, or 0 for all'
    )
  if not 0 <= val_fraction < 1:
    raise errors.UsageError(
      f'config.data.val_fraction={val_fraction}: give 0 to less than 1'
    )
  if val_fraction and info.num_val:
    raise errors.UsageError(
      f'config.data.val_fraction={val_fraction}: {info.name} has its own '
      f"split 'val' of {info.num_val} images; give 0"
    )
  if not train_size and not val_fraction:
    return whole
  size = train_size or most
  held_out = round(val_fraction * size)
  if val_fraction and not least <= held_out <= size - least:
    raise errors.UsageError(
      f'config.data.val_fraction={val_fraction} holds out {held_out} of {size} '
      f'images; each part needs {least} or more, one of each class'
    )

  def split(name: str) -> source.Images:
    if name == 'test' or (name == 'val' and whole.info.num_val):
      return whole.split(name)
    images = whole.split('train')
    kept = source.stratified(images.labels, size, SUBSET_SEED)
    within = source.stratified(images.labels[kept], held_out, SUBSET_SEED)
    if name == 'train':
      within = np.setdiff1d(np.arange(len(kept)), within)
    return source.Subset(images, kept[within])

  info = info._replace(
    num_train=size - held_out, num_val=held_out or info.num_val
  )
  return source.Source(info, split)
