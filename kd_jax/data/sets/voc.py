"""Pascal VOC 2012 for segmentation, `voc:/path`, with SBD's masks if there.

/path/VOCdevkit/VOC2012/JPEGImages/<id>.jpg
                        SegmentationClass/<id>.png
                        ImageSets/Segmentation/train.txt, val.txt
/path/benchmark_RELEASE/dataset/img/<id>.jpg, cls/<id>.mat, train.txt, val.txt

or, in place of benchmark_RELEASE/, its masks as PNG files: a folder
SegmentationClassAug/ in VOC2012/ or in /path, and trainaug.txt beside it or
beside train.txt. VOC's val is the result; the labels of its test split are not
public.

Sources: Everingham et al., "The Pascal Visual Object Classes Challenge", 2010;
Hariharan et al., "Semantic Contours from Inverse Detectors", ICCV 2011 (SBD).
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import io
import os
import re
from typing import Any, NamedTuple

from etils import epath
import numpy as np
from PIL import Image
import scipy.io

from kd_jax import errors
from kd_jax.data import decode, masks, source
from kd_jax.runtime import digests, gcs

CLASSES = (
  'background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car',
  'cat', 'chair', 'cow', 'diningtable', 'dog', 'horse', 'motorbike', 'person',
  'pottedplant', 'sheep', 'sofa', 'train', 'tvmonitor',
)  # fmt: skip
# ImageNet's, which the networks' first weights come from.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What is known of the lists, by what is trained on.
_KNOWN = {'VOC alone': (1464, 1449), 'VOC and SBD': (10582, 1449)}
_MOST_MAT = 2**20  # bytes of a .mat, of which SBD's are a tenth at most
_NAME = re.compile(r'[A-Za-z0-9_-]+')  # of an image in a list


class Pair(NamedTuple):
  """Where an image is, and its mask (.png, or SBD's .mat) or objects (.xml)."""

  image: epath.Path
  target: epath.Path


@dataclasses.dataclass(frozen=True)
class Files:
  """A split as files of images and of masks, which are decoded when read.

  Attributes:
    pairs: The N images with their masks.
  """

  pairs: tuple[Pair, ...]

  @property
  def labels(self) -> np.ndarray:
    """Nothing, [N,0] u8: an image has no class."""
    return np.zeros((len(self), 0), np.uint8)

  def __len__(self) -> int:
    """Returns the number of images, N."""
    return len(self.pairs)

  def sides(self, index: int) -> tuple[int, int]:
    """Returns the height and width of an image, in pixels."""
    return decode.sides(self.pairs[index].image)

  def read(self, index: int) -> tuple[np.ndarray, source.Target]:
    """Returns the image [h,w,3] u8 at an index, and 'label' [h,w] u8.

    Raises:
      UsageError: A file cannot be read, or the mask is none of this image.
    """
    image_path, mask_path = self.pairs[index]
    image, mask = decode.read(image_path), read_mask(mask_path)
    if image.shape[:2] != mask.shape:
      sides = [f'{x.shape[1]}x{x.shape[0]}' for x in (mask, image)]
      raise errors.UsageError(
        f'the mask {mask_path} has {sides[0]} pixels, and its image '
        f'{image_path} {sides[1]}: give the mask of this image'
      )
    return image, {'label': mask}


def read_mask(path: epath.Path) -> np.ndarray:
  """Returns the labels [h,w] u8 of a mask: 0 to 20, and 255 for void.

  Args:
    path: A PNG file of 8 bits a pixel with a palette or grey, whose values are
      the labels, or SBD's .mat.

  Raises:
    UsageError: The file cannot be read, has colours in place of labels, or
      other labels.
  """
  try:
    content = path.read_bytes()
  except OSError as error:
    raise errors.UsageError(
      f'cannot read the mask {path}: {error.strerror or error}'
    ) from error
  parse = _of_mat if path.suffix == '.mat' else _of_png
  try:
    mask = parse(content)
  except Exception as error:  # what a damaged file makes a reader raise is open
    why = str(error).strip().partition('\n')[0] or type(error).__name__
    raise errors.UsageError(f'no mask {path}: {why}') from error
  values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
  wrong = values[(values >= len(CLASSES)) & (values != masks.VOID)].tolist()
  if wrong:
    raise errors.UsageError(
      f'the mask {path} has labels that are no class from 0 to '
      f'{len(CLASSES) - 1} and not {masks.VOID} (void): {few(map(str, wrong))}'
    )
  return mask


def _of_png(content: bytes) -> np.ndarray:
  with Image.open(io.BytesIO(content), formats=('PNG',)) as image:
    if image.mode not in ('P', 'L'):
      raise ValueError(
        f'it is a PNG of mode {image.mode}: give the indices of classes, with '
        'a palette (mode P) or as grey (mode L), not colours'
      )
    return np.array(image)


def _of_mat(content: bytes) -> np.ndarray:
  if len(content) > _MOST_MAT:
    raise ValueError(
      f'it has {len(content)} bytes, and masks of SBD less than {_MOST_MAT}'
    )
  found = scipy.io.loadmat(io.BytesIO(content), variable_names=('GTcls',))
  try:
    mask = found['GTcls'][0]['Segmentation'][0]
  except (KeyError, IndexError, ValueError) as error:
    raise ValueError('it has no GTcls.Segmentation, as SBD has') from error
  if mask.dtype != np.uint8 or mask.ndim != 2:
    raise ValueError(
      f'its labels are {mask.dtype} of {mask.ndim} dimensions, not a table of '
      'uint8'
    )
  return np.asarray(mask)


def open_voc(
  name: str, image_size: int = 0, home: epath.Path | None = None
) -> source.Source:
  """Returns VOC 2012 for segmentation as a data set.

  Trained on are VOC's train and, if they are there, SBD's train and val, none
  of VOC's val. An image is there once; VOC's mask comes before SBD's.

  Args:
    name: 'voc:/path'.
    image_size: The height and width of the network's input in pixels.
    home: The folder where digests of the files are kept; see `digests`.

  Returns:
    The data set. Its notes tell what is which split, and where counts are not
    the known ones.

  Raises:
    UsageError: A folder, a list, an image or a mask is missing, or `image_size`
      is 0.
  """
  root = epath.Path(name.removeprefix('voc:')).expanduser()
  if not image_size:
    raise errors.ArgumentError(
      'image_size=0: the images of VOC differ in size; give the size that '
      'networks shall see, such as 513'
    )
  voc = root / 'VOCdevkit' / 'VOC2012'
  lists = voc / 'ImageSets' / 'Segmentation'
  if not lists.is_dir():
    raise errors.UsageError(
      f'{root} holds no VOC 2012: there is no folder {lists}'
    )
  train, val = ids(lists / 'train.txt'), ids(lists / 'val.txt')

  def of_voc(names: Sequence[str]) -> dict[str, Pair]:
    return {
      n: Pair(
        voc / 'JPEGImages' / f'{n}.jpg', voc / 'SegmentationClass' / f'{n}.png'
      )
      for n in names
    }

  test = of_voc(val)
  more, where = _more(root, voc, lists)
  pairs = {**more, **of_voc(train)}
  if both := [n for n in train if n in test]:
    raise errors.UsageError(
      f'{lists}: train.txt and val.txt share {len(both)} images ({few(both)})'
    )
  order = [n for n in dict.fromkeys((*train, *more)) if n not in test]
  splits = {
    'train': Files(tuple(pairs[n] for n in order)),
    'test': Files(tuple(test.values())),
  }
  by_split = {name: files.pairs for name, files in splits.items()}
  check_there(root, by_split, 'mask')
  if not order:
    raise errors.UsageError(f'{root}: all training images are in val.txt')
  info = source.Info(
    name=name,
    class_names=CLASSES,
    image_size=image_size,
    num_train=len(order),
    num_test=len(test),
    mean=_MEAN,
    std=_STD,
    fingerprint=fingerprint(root, by_split, home),
    task='segmentation',
    place=gcs.absolute(root),
  )
  notes = _notes(where, train, splits)
  return source.Source(info, splits.__getitem__, notes)


def ids(path: epath.Path) -> list[str]:
  """Returns the names of images in a list, each once, in its order.

  A line may be the name alone, or begin with a path whose last part it is, as
  the lists of some copies do.

  Args:
    path: The path of the list.

  Raises:
    UsageError: The list cannot be read, is empty, or has a line that is no
      name.
  """
  try:
    text = path.read_bytes().decode()
  except (OSError, UnicodeDecodeError) as error:
    why = getattr(error, 'strerror', '') or error
    raise errors.UsageError(f'cannot read the list {path}: {why}') from error
  found = []
  for number, line in enumerate(text.splitlines(), 1):
    if not line.strip():
      continue
    name = line.split()[0].rpartition('/')[2].removesuffix('.jpg')
    if not _NAME.fullmatch(name):
      raise errors.UsageError(
        f'{path}, line {number}: {name!r} is no name of an image'
      )
    found.append(name)
  if not found:
    raise errors.UsageError(f'the list {path} is empty')
  return list(dict.fromkeys(found))


def _more(
  root: epath.Path, voc: epath.Path, lists: epath.Path
) -> tuple[dict[str, Pair], str]:
  """Returns SBD's images by name with their masks, and where they are from.

  Raises:
    UsageError: There are the masks and not the list of their images.
  """
  release = root / 'benchmark_RELEASE' / 'dataset'
  if release.is_dir():
    names = [*ids(release / 'train.txt'), *ids(release / 'val.txt')]
    return {
      n: Pair(release / 'img' / f'{n}.jpg', release / 'cls' / f'{n}.mat')
      for n in dict.fromkeys(names)
    }, 'benchmark_RELEASE/'
  for place in (voc, root):
    labels = place / 'SegmentationClassAug'
    if labels.is_dir():
      found = [p / 'trainaug.txt' for p in (lists, place, labels)]
      there = next((p for p in found if p.exists()), None)
      if there is None:
        raise errors.UsageError(f'{labels} is without its list {found[0]}')
      return {
        n: Pair(voc / 'JPEGImages' / f'{n}.jpg', labels / f'{n}.png')
        for n in ids(there)
      }, str(labels.relative_to(root)) + '/'
  return {}, ''


def check_there(
  root: epath.Path, splits: Mapping[str, Sequence[Pair]], target: str
) -> None:
  """Checks that all files that lists name are there.

  Args:
    root: The folder of the data set, for the message.
    splits: The files of each split.
    target: What an image's other file is, such as 'mask'.

  Raises:
    UsageError: Files are missing; it names the first and says how many.
  """

  @functools.cache
  def names(folder: epath.Path) -> set[str]:
    return (
      {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    )

  for place, what in enumerate(('image', target)):
    paths = [pair[place] for pairs in splits.values() for pair in pairs]
    missing = [path for path in paths if path.name not in names(path.parent)]
    if missing:
      raise errors.UsageError(
        f'{root}: {len(missing)} of {len(paths)} {what}s that its lists name '
        f'are not there, the first is {missing[0]}'
      )


def _notes(
  where: str, train: Sequence[str], splits: dict[str, Files]
) -> tuple[str, ...]:
  count, tested = len(splits['train']), len(splits['test'])
  kind = 'VOC and SBD' if where else 'VOC alone'
  from_sbd = f' and {where} ({count - len(train)})' if where else ''
  notes = [
    f"VOC's train ({len(train)} images){from_sbd} is trained on; VOC's val "
    f'({tested}) is both for choosing and the result, called test: the labels '
    "of VOC's test are not public"
  ]
  if (count, tested) != _KNOWN[kind]:
    notes.append(
      f'{kind} has {_KNOWN[kind][0]} training and {_KNOWN[kind][1]} images of '
      f'val, and here are {count} and {tested}'
    )
  return tuple(notes)


def fingerprint(
  root: epath.Path,
  splits: Mapping[str, Sequence[Pair]],
  home: epath.Path | None,
) -> str:
  """Returns a digest of the splits, names and bytes of all files.

  Args:
    root: The folder of the data set.
    splits: The files of each split.
    home: The folder where digests of the files are kept; see `digests`.
  """
  start = len(os.fspath(root)) + 1
  paths: dict[str, Any] = {}
  roles: dict[str, str] = {}
  for split, pairs in splits.items():
    for pair in pairs:
      for path in map(os.fspath, pair):
        paths[path[start:]] = path
        roles[path[start:]] = split
  found = digests.of_files(paths, gcs.absolute(root), home)
  return digests.of_contents(
    {name: f'{role} {found[name]}' for name, role in roles.items()}, home
  )


def few(names: Any) -> str:
  """Returns the first five names of those given, in one line."""
  shown = list(names)
  more = ', ...' if len(shown) > 5 else ''
  return ', '.join(errors.shown(name) for name in shown[:5]) + more
