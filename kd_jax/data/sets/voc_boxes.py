"""Pascal VOC 2007 and 2012 for detection, `voc_boxes:/path`.

/path/VOCdevkit/VOC2007/JPEGImages/<id>.jpg
                        Annotations/<id>.xml
                        ImageSets/Main/trainval.txt, test.txt
/path/VOCdevkit/VOC2012/JPEGImages/, Annotations/
                        ImageSets/Main/trainval.txt

Trained on are the trainval of 2007 and, if it is there, that of 2012; the test
of 2007 is the result.

Sources: Everingham et al., "The Pascal Visual Object Classes Challenge", 2010;
`voc0712.py` of ssd.pytorch 5b0b77f for boxes in fractions of the image.
"""

import collections
from collections.abc import Mapping, Sequence
from concurrent import futures
import dataclasses
import math
from typing import NamedTuple
from xml.etree import ElementTree

from etils import epath
import numpy as np

from kd_jax import errors
from kd_jax.data import decode, source
from kd_jax.data.sets import voc
from kd_jax.runtime import gcs

CLASSES = voc.CLASSES[1:]
_LABELS = {name: label for label, name in enumerate(CLASSES)}
_EDGES = ('xmin', 'ymin', 'xmax', 'ymax')
# The images of trainval and of test, by the year.
_KNOWN = {'VOC2007': 5011, 'VOC2012': 11540, 'test': 4952}
# ImageNet's, which the networks' first weights come from.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_MOST_BYTES = 2**20  # of an XML file, of which VOC's have a hundredth
_MOST_OBJECTS = 1000  # of an image; every other image has as many rows
_THREADS = 8


class Annotation(NamedTuple):
  """What an XML file says of its image; G objects.

  Attributes:
    sides: The image's width and height in pixels.
    boxes: The boxes in corner form, in fractions of the image, [G,4] f32.
    label: The classes, [G] i32.
    difficult: Whether an object counts nowhere, [G] bool.
    cut: How many boxes reach out of the image, and are cut off there.
    empty: How many objects are left out, since their boxes have no area in the
      image.
  """

  sides: tuple[int, int]
  boxes: np.ndarray
  label: np.ndarray
  difficult: np.ndarray
  cut: int = 0
  empty: int = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
  """A split as files of images, which are decoded when read, and their objects.

  Attributes:
    pairs: The N images with their XML files.
    sides: The images' widths and heights by these files, in pixels, [N,2] i32.
    boxes: The boxes in corner form, in fractions of the image, [N,M,4] f32;
      rows of zeros pad.
    labels: The classes, [N,M] i32; -1 pads.
    difficult: Whether an object counts nowhere, [N,M] bool.
  """

  pairs: tuple[voc.Pair, ...]
  sides: np.ndarray
  boxes: np.ndarray
  labels: np.ndarray
  difficult: np.ndarray

  def __len__(self) -> int:
    """Returns the number of images, N."""
    return len(self.pairs)

  def read(self, index: int) -> tuple[np.ndarray, source.Target]:
    """Returns the image [h,w,3] u8 at an index, and its objects.

    They are 'boxes' [M,4] f32, 'label' [M] i32 and 'difficult' [M] bool.

    Raises:
      UsageError: The image cannot be read, or has other sides than its XML
        file says.
    """
    path, xml = self.pairs[index]
    image = decode.read(path)
    sides = tuple(self.sides[index].tolist())
    if image.shape[1::-1] != sides:
      raise errors.UsageError(
        f'{xml} says {sides[0]}x{sides[1]} pixels, and its image {path} has '
        f'{image.shape[1]}x{image.shape[0]}: give the annotation of this image'
      )
    return image, {
      'boxes': self.boxes[index],
      'label': self.labels[index],
      'difficult': self.difficult[index],
    }


def read_objects(path: epath.Path) -> Annotation:
  """Returns what an XML file of VOC says of its image.

  The pixels of a box count from 1, so that it is (value - 1) / side in
  fractions of the image, as in ssd.pytorch; a few files of VOC 2012 have values
  with decimals, which are kept. An object without 'difficult' is not.

  Args:
    path: The file.

  Raises:
    UsageError: The file cannot be read, is no annotation, has a DTD (which may
      name other files, or grow without end), or names an unknown class.
  """
  try:
    with path.open('rb') as file:
      content = file.read(_MOST_BYTES + 1)
    return _annotation(content)
  except OSError as error:
    raise errors.UsageError(
      f'cannot read the annotation {path}: {error.strerror or error}'
    ) from error
  except (ElementTree.ParseError, LookupError, ValueError) as error:
    raise errors.UsageError(f'no annotation {path}: {error}') from error


class _Builder(ElementTree.TreeBuilder):
  """Builds the tree of a document without a DTD."""

  def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
    """Refuses the DTD where it begins, before anything in it is read."""
    del name, pubid, system
    raise ValueError('it has a DTD, which no file of VOC has; remove it')


def _annotation(content: bytes) -> Annotation:
  """Returns what an XML file says.

  Raises:
    ValueError: It is no annotation.
  """
  if len(content) > _MOST_BYTES:
    raise ValueError(
      f'it has more than {_MOST_BYTES} bytes, and files of VOC some thousands'
    )
  root = ElementTree.fromstring(
    content, ElementTree.XMLParser(target=_Builder())
  )
  size = root.find('size')
  if root.tag != 'annotation' or size is None:
    raise ValueError('it is no <annotation> with a <size>, as VOC has')
  sides = _number(size, 'width'), _number(size, 'height')
  if not all(1 <= side < 2**16 and side.is_integer() for side in sides):
    raise ValueError(f'its image has {sides[0]:g}x{sides[1]:g} pixels')
  objects = root.findall('object')
  if len(objects) > _MOST_OBJECTS:
    raise ValueError(
      f'it has {len(objects)} objects, and an image may have {_MOST_OBJECTS}'
    )
  corners = np.array([_corners(x) for x in objects], np.float64).reshape(-1, 4)
  whole = (corners - 1) / (*sides, *sides)
  boxes = whole.clip(0, 1).astype(np.float32)
  there = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
  reach_out = ((whole < 0) | (whole > 1)).any(axis=1)
  label = np.array([_label(x) for x in objects], np.int32)
  difficult = np.array([_is_difficult(x) for x in objects], bool)
  return Annotation(
    (int(sides[0]), int(sides[1])),
    boxes[there],
    label[there],
    difficult[there],
    cut=int((reach_out & there).sum()),
    empty=int((~there).sum()),
  )


def _number(element: ElementTree.Element, name: str) -> float:
  text = element.findtext(name)
  if text is None:
    raise ValueError(f'<{element.tag}> has no <{name}>')
  try:
    value = float(text)
  except ValueError:
    value = math.nan
  if not math.isfinite(value):
    raise ValueError(f'<{name}> is {text.strip()!r}, no number of pixels')
  return value


def _corners(element: ElementTree.Element) -> list[float]:
  """Returns an object's box, whose pixels count from 1."""
  box = element.find('bndbox')
  if box is None:
    raise ValueError('an <object> has no <bndbox>')
  corners = [_number(box, edge) for edge in _EDGES]
  if corners[2] < corners[0] or corners[3] < corners[1]:
    named = zip(_EDGES, corners, strict=True)
    shown = ', '.join(f'{edge} {value:g}' for edge, value in named)
    raise ValueError(f'a box ends before it begins: {shown}')
  return corners


def _label(element: ElementTree.Element) -> int:
  name = (element.findtext('name') or '').strip()
  if name not in _LABELS:
    raise errors.unknown('class', errors.shown(name), CLASSES)
  return _LABELS[name]


def _is_difficult(element: ElementTree.Element) -> bool:
  text = (element.findtext('difficult') or '0').strip()
  if text not in ('0', '1'):
    raise ValueError(f'<difficult> is {text!r}, neither 0 nor 1')
  return text == '1'


def open_voc_boxes(
  name: str, image_size: int = 0, home: epath.Path | None = None
) -> source.Source:
  """Returns VOC 2007 and 2012 for detection as a data set.

  Difficult objects keep their flag. A training image without any other object
  is left out: it would teach nothing, since negatives are mined beside
  positives. Test images stay without objects too: what is detected there is
  wrong.

  Args:
    name: 'voc_boxes:/path'.
    image_size: The height and width of the network's input in pixels.
    home: The folder where digests of the files are kept; see `digests`.

  Returns:
    The data set. Its notes tell what is which split, and count boxes that are
    cut off, what is left out, and where counts are not the known ones.

  Raises:
    UsageError: A folder, a list, an image or an XML file is missing, an XML
      file is wrong, or `image_size` is 0.
  """
  root = epath.Path(name.removeprefix('voc_boxes:')).expanduser()
  if not image_size:
    raise errors.ArgumentError(
      'image_size=0: the images of VOC differ in size; give the size that '
      'networks shall see, such as 300'
    )
  parts = _listed(root)
  voc.check_there(root, parts, 'XML file')
  read = {part: _read(pairs) for part, pairs in parts.items()}
  tests = read.pop('test')
  order = [pair for part in read for pair in parts[part]]
  every = [x for annotations in read.values() for x in annotations]
  taught = [bool((~x.difficult).any()) for x in every]
  splits = {
    'train': _files(*_chosen(order, every, taught)),
    'test': _files(parts['test'], tests),
  }
  if not len(splits['train']):
    raise errors.UsageError(
      f'{root}: no training image has an object that is not difficult'
    )
  info = source.Info(
    name=name,
    class_names=CLASSES,
    image_size=image_size,
    num_train=len(splits['train']),
    num_test=len(splits['test']),
    mean=_MEAN,
    std=_STD,
    fingerprint=voc.fingerprint(
      root, {'train': order, 'test': parts['test']}, home
    ),
    task='detection',
    place=gcs.absolute(root),
  )
  left_out = [
    pair.target.stem
    for pair, is_taught in zip(order, taught, strict=True)
    if not is_taught
  ]
  notes = (
    *_counts(parts),
    *_about([*order, *parts['test']], [*every, *tests], left_out, len(order)),
  )
  return source.Source(info, splits.__getitem__, notes)


def _listed(root: epath.Path) -> dict[str, list[voc.Pair]]:
  """Returns the files of 'VOC2007', of 'VOC2012' if it is there, and of 'test'.

  Raises:
    UsageError: VOC 2007 is not there, a list is wrong, or an image is in two
      of them.
  """
  kit = root / 'VOCdevkit'

  def pairs(year: str, part: str) -> list[voc.Pair]:
    base = kit / year
    return [
      voc.Pair(
        base / 'JPEGImages' / f'{n}.jpg', base / 'Annotations' / f'{n}.xml'
      )
      for n in voc.ids(base / 'ImageSets' / 'Main' / f'{part}.txt')
    ]

  if not (kit / 'VOC2007').is_dir():
    raise errors.UsageError(
      f'{root} holds no VOC 2007: there is no folder {kit / "VOC2007"}'
    )
  parts = {
    year: pairs(year, 'trainval')
    for year in ('VOC2007', 'VOC2012')
    if (kit / year).is_dir()
  }
  parts['test'] = pairs('VOC2007', 'test')
  counts = collections.Counter(
    pair.target.stem for part in parts.values() for pair in part
  )
  if twice := [name for name, count in counts.items() if count > 1]:
    raise errors.UsageError(
      f'{kit}: {len(twice)} images are in two of the lists '
      f'{", ".join(_named(parts))} ({voc.few(twice)})'
    )
  return parts


def _read(pairs: Sequence[voc.Pair]) -> list[Annotation]:
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(read_objects, [pair.target for pair in pairs]))


def _chosen(
  pairs: Sequence[voc.Pair],
  annotations: Sequence[Annotation],
  chosen: Sequence[bool],
) -> tuple[list[voc.Pair], list[Annotation]]:
  rows = [i for i, is_chosen in enumerate(chosen) if is_chosen]
  return [pairs[i] for i in rows], [annotations[i] for i in rows]


def _files(
  pairs: Sequence[voc.Pair], annotations: Sequence[Annotation]
) -> Files:
  """Returns a split; all images have as many rows as the one with most."""
  shape = len(pairs), max((len(x.label) for x in annotations), default=0)
  boxes = np.zeros((*shape, 4), np.float32)
  labels, difficult = np.full(shape, -1, np.int32), np.zeros(shape, bool)
  for i, x in enumerate(annotations):
    rows = slice(len(x.label))
    boxes[i, rows], labels[i, rows] = x.boxes, x.label
    difficult[i, rows] = x.difficult
  sides = np.array([x.sides for x in annotations], np.int32).reshape(-1, 2)
  return Files(tuple(pairs), sides, boxes, labels, difficult)


def _named(parts: Mapping[str, Sequence[voc.Pair]]) -> list[str]:
  return [
    "VOC2007's test" if part == 'test' else f"{part}'s trainval"
    for part in parts
  ]


def _counts(parts: Mapping[str, Sequence[voc.Pair]]) -> list[str]:
  """Returns which part is which split, and whether their counts are known."""
  *trained, tested = (
    f'{name} ({len(pairs)} images)'
    for name, pairs in zip(_named(parts), parts.values(), strict=True)
  )
  notes = [
    f'{" and ".join(trained)} {"are" if len(trained) > 1 else "is"} trained '
    f'on; {tested} is both for choosing and the result'
  ]
  if 'VOC2012' not in parts:
    notes.append(
      'VOC 2012 is not there; papers train on its trainval (11540) too'
    )
  known = {part: _KNOWN[part] for part in parts}
  if known != {part: len(pairs) for part, pairs in parts.items()}:
    numbers = ', '.join(
      f'{name} has {count}'
      for name, count in zip(_named(parts), known.values(), strict=True)
    )
    notes.append(f'other counts than the known ones: {numbers} images')
  return notes


def _about(
  pairs: Sequence[voc.Pair],
  annotations: Sequence[Annotation],
  left_out: Sequence[str],
  count: int,
) -> list[str]:
  """Returns lines about boxes that reach out and what is left out.

  Args:
    pairs: The files of all images.
    annotations: What the XML files say, in the same order.
    left_out: The names of training images that are left out.
    count: How many training images are listed.
  """
  notes = []
  for field, what in (
    ('cut', 'boxes reach out of their images and are cut off there'),
    ('empty', 'objects have no area in their images and are left out'),
  ):
    counts = [getattr(x, field) for x in annotations]
    if total := sum(counts):
      first = pairs[[n > 0 for n in counts].index(True)].target
      notes.append(f'{total} {what} (the first in {first})')
  if left_out:
    notes.append(
      f'{len(left_out)} of {count} training images have no object that is not '
      f'difficult and are left out ({voc.few(left_out)})'
    )
  return notes
