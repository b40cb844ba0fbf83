"""CIFAR and Tiny-ImageNet as tfds builders that need no TensorFlow.

tfds's own builders of CIFAR unpack, read and encode through TensorFlow, and
Tiny-ImageNet has none. The builders of this module read the published archives
with Python's tarfile and zipfile, member by member (nothing is unpacked to
disk), and write the same features as array_record.

Source: Krizhevsky, 2009 (CIFAR); Le and Yang, 2015 (Tiny-ImageNet).
"""

from collections.abc import Iterator
import io
import tarfile
from typing import Any, ClassVar
import zipfile
import zlib

from etils import epath
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from kd_jax import errors
from kd_jax.data.sets import archive, pickles
from kd_jax.runtime import downloads

Example = tuple[str, dict[str, Any]]
_TEXT = 1 << 16  # the most bytes of a list of class names
_IMAGE = 1 << 20  # the most bytes of a JPEG file of 64x64 pixels
# What a damaged archive raises, or one of something else. RuntimeError: an
# encryption, or a compression that is not known.
_DAMAGE = (
  tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError,
  RuntimeError, ValueError,
)  # fmt: skip


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """A builder that reads a single archive.

  It is kept out of tfds's registry, which already has a CIFAR.

  Attributes:
    archive_path: The path of the archive, set before preparation.
  """

  archive_path: epath.Path

  PUBLISHED: ClassVar[downloads.Published]
  ALSO: ClassVar[tuple[downloads.Published, ...]] = ()  # of the same data
  ENCODING: ClassVar[str]
  IMAGE_SIZE: ClassVar[int] = 32
  CLASSES: ClassVar[int]
  COUNTS: ClassVar[dict[str, int]]  # of the published images, by split

  def _info(self) -> tfds.core.DatasetInfo:
    image = (self.IMAGE_SIZE, self.IMAGE_SIZE, 3)
    return tfds.core.DatasetInfo(
      builder=self,
      description=self.__doc__,
      features=tfds.features.FeaturesDict(
        {
          'id': tfds.features.Text(),
          'image': tfds.features.Image(
            shape=image, encoding_format=self.ENCODING
          ),
          'label': tfds.features.ClassLabel(num_classes=self.CLASSES),
        }
      ),
      supervised_keys=('image', 'label'),
    )

  def _generate_examples(self) -> Iterator[Example]:
    # Abstract in tfds, but unused: `_split_generators` yields the examples.
    raise NotImplementedError

  def _name_classes(self, listing: bytes) -> None:
    """Sets the class names, a line each.

    Raises:
      UsageError: They are no text, too few, too many or not distinct.
    """
    try:
      names = [n.strip() for n in listing.decode().split('\n') if n.strip()]
    except UnicodeDecodeError as error:
      raise self._broken(error) from error
    if len({*names}) != self.CLASSES or len(names) != self.CLASSES:
      raise self._broken(
        ValueError(f'{len({*names})} class names for {self.CLASSES} classes')
      )
    self.info.features['label'].names = names

  def _broken(self, error: Exception) -> errors.UsageError:
    return errors.UsageError(
      f'{self.archive_path} is not a complete archive of {self.name} '
      f'({type(error).__name__}: {error}); fetch it again from '
      f'{" or ".join(each.url for each in (self.PUBLISHED, *self.ALSO))}'
    )


class Cifar100(_Builder, skip_registration=True):  # type: ignore[call-arg]
  """CIFAR-100: 50,000 training and 10,000 test images, 32x32, 100 classes."""

  VERSION = tfds.core.Version('3.0.2')
  ENCODING: ClassVar[str] = 'png'
  CLASSES: ClassVar[int] = 100
  COUNTS: ClassVar[dict[str, int]] = {'train': 50_000, 'test': 10_000}
  PUBLISHED: ClassVar[downloads.Published] = downloads.Published(
    'https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz',
    'sha256',
    '58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec',
    168_513_733,
  )
  ALSO: ClassVar[tuple[downloads.Published, ...]] = (
    downloads.Published(
      'https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz',
      'sha256',
      '85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7',
      169_001_437,
    ),
  )
  META: ClassVar[tuple[str, bytes, bytes]] = (
    'meta',
    b'fine_label_names',
    b'fine_labels',
  )
  NAMES: ClassVar[str] = 'fine_label_names.txt'
  FILES: ClassVar[dict[str, tuple[str, ...]]] = {
    'train': ('train.bin',),
    'test': ('test.bin',),
  }
  LABEL_BYTES: ClassVar[int] = 2  # the coarse label, then the fine label

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Example]]:
    del dl_manager
    binary = {self.NAMES, *sum(self.FILES.values(), ())}
    pickled = {self.META[0], *(n.removesuffix('.bin') for n in binary)}
    pickled -= {self.NAMES}
    sizes = dict.fromkeys((self.NAMES, self.META[0]), _TEXT)
    for split, files in self.FILES.items():
      size = self.COUNTS[split] // len(files) * (self.LABEL_BYTES + 3072)
      for name in files:  # a pickle also holds the images' file names
        sizes |= {name: size, name.removesuffix('.bin'): 2 * size}
    most = 2 * sum(self.COUNTS.values()) * (self.LABEL_BYTES + 3072)
    try:
      contents = archive.tar_members(self.archive_path, sizes, most)
    except _DAMAGE as error:
      raise self._broken(error) from error
    if pickled <= contents.keys():
      contents = self._unpickled(contents)
    if missing := binary - contents.keys():
      raise self._broken(
        FileNotFoundError(
          f'it lacks {", ".join(sorted(missing))}, or, as pickled for Python, '
          f'{", ".join(sorted(pickled - contents.keys()))}'
        )
      )
    self._name_classes(contents[self.NAMES])
    return {
      split: self._examples(split, [contents[name] for name in files])
      for split, files in self.FILES.items()
    }

  def _unpickled(self, contents: dict[str, bytes]) -> dict[str, bytes]:
    """Returns the files of the binary archive, from those for Python.

    The images, their order and their layout are the same in both.

    Args:
      contents: The pickled files by name.
    """
    meta, names, labels = self.META
    try:
      decoded = [name.decode() for name in pickles.load(contents[meta])[names]]
      files = {self.NAMES: '\n'.join(decoded).encode()}
      for name in sum(self.FILES.values(), ()):
        batch = pickles.load(contents[name.removesuffix('.bin')])
        pixels, given = batch[b'data'], batch[labels]
        if not isinstance(pixels, np.ndarray) or any(
          type(label) is not int for label in given
        ):
          raise ValueError(f'{name} holds no array of images, or no labels')
        classes = np.array(given)[:, None]
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
          raise ValueError(f'{name} holds no images of 3072 bytes')
        if classes.min() < 0 or classes.max() >= self.CLASSES:
          raise ValueError(f'{name} holds labels that are no class')
        rows = [classes.astype(np.uint8)] * self.LABEL_BYTES
        files[name] = np.concatenate([*rows, pixels], axis=1).tobytes()
    except Exception as error:  # what other content raises is open
      raise self._broken(error) from error
    return files

  def _examples(self, split: str, files: list[bytes]) -> Iterator[Example]:
    """Yields the examples of a split.

    A row of a file is the label bytes and 3072 bytes of pixels: the red, the
    green and the blue plane.
    """
    width = self.LABEL_BYTES + 3072
    number = 0
    for content in files:
      if len(content) % width:
        raise self._broken(
          ValueError(f'{len(content)} bytes of {split} images')
        )
      for row in np.frombuffer(content, np.uint8).reshape(-1, width):
        pixels = row[self.LABEL_BYTES :].reshape(3, 32, 32).transpose(1, 2, 0)
        key = f'{split}_{number:05d}'
        label = int(row[self.LABEL_BYTES - 1])
        if label >= self.CLASSES:
          raise self._broken(ValueError(f'{key} has the label {label}'))
        image = Image.fromarray(np.ascontiguousarray(pixels))
        yield key, {'id': key, 'image': image, 'label': label}
        number += 1


class Cifar10(Cifar100, skip_registration=True):  # type: ignore[call-arg]
  """CIFAR-10: 50,000 training and 10,000 test images, 32x32, 10 classes."""

  VERSION = tfds.core.Version('3.0.2')
  CLASSES: ClassVar[int] = 10
  PUBLISHED: ClassVar[downloads.Published] = downloads.Published(
    'https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz',
    'sha256',
    'c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd',
    170_052_171,
  )
  ALSO: ClassVar[tuple[downloads.Published, ...]] = (
    downloads.Published(
      'https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz',
      'sha256',
      '6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce',
      170_498_071,
    ),
  )
  META: ClassVar[tuple[str, bytes, bytes]] = (
    'batches.meta',
    b'label_names',
    b'labels',
  )
  NAMES: ClassVar[str] = 'batches.meta.txt'
  FILES: ClassVar[dict[str, tuple[str, ...]]] = {
    'train': tuple(f'data_batch_{i}.bin' for i in range(1, 6)),
    'test': ('test_batch.bin',),
  }
  LABEL_BYTES: ClassVar[int] = 1


class TinyImagenet(_Builder, skip_registration=True):  # type: ignore[call-arg]
  """Tiny-ImageNet: 100,000 training and 10,000 test JPEGs, 64x64, 200 classes.

  The published validation set is the test split, for the published test set has
  no labels. The JPEG files are kept byte for byte.
  """

  VERSION = tfds.core.Version('1.0.0')
  ENCODING: ClassVar[str] = 'jpeg'
  IMAGE_SIZE: ClassVar[int] = 64
  CLASSES: ClassVar[int] = 200
  COUNTS: ClassVar[dict[str, int]] = {'train': 100_000, 'test': 10_000}
  PUBLISHED: ClassVar[downloads.Published] = downloads.Published(
    'http://cs231n.stanford.edu/tiny-imagenet-200.zip',
    'sha256',
    '6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821',
    248_100_043,
  )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Example]]:
    del dl_manager
    try:
      file = zipfile.ZipFile(str(self.archive_path))
      root = 'tiny-imagenet-200/'
      wnids = archive.zip_member(file, f'{root}wnids.txt', _TEXT)
      listing = archive.zip_member(
        file, f'{root}val/val_annotations.txt', 100 * _TEXT
      ).decode()
      rows = [line.split('\t')[:2] for line in listing.splitlines() if line]
      validation = {f'{root}val/images/{name}': wnid for name, wnid in rows}
    except _DAMAGE as error:
      raise self._broken(error) from error
    self._name_classes(wnids)
    train = {
      name: name.split('/')[2]
      for name in file.namelist()
      if name.startswith(f'{root}train/') and name.endswith('.JPEG')
    }
    return {
      'train': self._examples(file, train),
      'test': self._examples(file, validation),
    }

  def _examples(
    self, file: zipfile.ZipFile, labels: dict[str, str]
  ) -> Iterator[Example]:
    classes = {*self.info.features['label'].names}
    for name, wnid in sorted(labels.items()):
      try:
        content = archive.zip_member(file, name, _IMAGE)
        if wnid not in classes:
          raise ValueError(f'{name} has a class {wnid!r} that is none')
      except _DAMAGE as error:
        raise self._broken(error) from error
      key = name.rsplit('/', 1)[1].removesuffix('.JPEG')
      yield key, {'id': key, 'image': io.BytesIO(content), 'label': wnid}


BUILDERS: dict[str, type[_Builder]] = {
  'cifar10': Cifar10,
  'cifar100': Cifar100,
  'tiny_imagenet': TinyImagenet,
}
