"""Images with masks that are evaluated at their own shapes, not as squares.

A network sees an image alone, without padding: the mean over space, borders and
aligned corners would be others with it. So a batch has images of one shape, and
the evaluation is compiled once for each.

Source: the evaluation of overhaul-distillation 76344a8 (Segmentation).
"""

from collections.abc import Sequence

from jax.sharding import Mesh
import numpy as np

from kd_jax import errors
from kd_jax.data import augment_masks, dataset, source, stream
from kd_jax.runtime import sharding

# How the images of a split are evaluated, by `config.data.eval_protocol`.
PROTOCOLS = {
  'square': 'images become squares, and masks are scaled alike',
  'paper': 'images keep their aspect, and masks are scaled alike',
  'original': 'images keep their aspect, and logits are scaled to the masks',
}
_MOST = 16  # times its shorter side that an image may be long
# The positions of a batch in a split, and which of them are no padding.
Rows = tuple[np.ndarray, np.ndarray]


def check(
  eval_protocol: str, task: str, images: source.Images | None = None
) -> None:
  """Checks that images can be evaluated by a protocol.

  Args:
    eval_protocol: One of `PROTOCOLS`.
    task: The name of their task.
    images: The split, where it is known.

  Raises:
    UsageError: The protocol is unknown or for other images.
  """
  if eval_protocol not in PROTOCOLS:
    raise errors.unknown('eval_protocol', eval_protocol, PROTOCOLS)
  if eval_protocol == 'square':
    return
  why = ''
  if task != 'segmentation':
    why = f'it is for images with masks, and the task is {task}'
  elif isinstance(images, source.Arrays):
    why = 'it is for images of several shapes, and these have one'
  if why:
    raise errors.ArgumentError(
      f"eval_protocol={eval_protocol!r}: {why}: give 'square'"
    )


class _Batches:
  """The batches of a split, as a random-access source for Grain."""

  def __init__(
    self,
    images: source.Images,
    short: int,
    is_original: bool,
    batches: Sequence[Rows],
  ):
    self._images, self._short = images, short
    self._is_original, self._batches = is_original, batches

  def __len__(self) -> int:
    return len(self._batches)

  def __getitem__(self, position: int) -> dataset.Feed:
    index, mask = self._batches[position]
    pairs = [self._read(int(i)) for i in index]
    image, label = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    return {'image': image, 'label': label, 'index': index, 'mask': mask}

  def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
    image, target = self._images.read(index)
    assert isinstance(target, dict)  # `check` refuses other tasks
    mask = target['label']
    sides = scaled_sides(image.shape[:2], self._short)
    image, scaled = augment_masks.resized(image, mask, *sides)
    return image, mask if self._is_original else scaled


class Shaped(stream.Streamed):
  """A split whose batches have images of one shape: a `dataset.EvalSet`."""

  def __init__(
    self,
    images: source.Images,
    info: source.Info,
    mesh: Mesh,
    eval_protocol: str,
    *,
    workers: int,
  ):
    """Reads the sides of all images, by which it groups them.

    Args:
      images: The split, with masks.
      info: The facts of the data set.
      mesh: The devices; each process decodes its own rows of a batch.
      eval_protocol: 'paper' or 'original'; see `PROTOCOLS`.
      workers: The number of worker processes; 0 decodes in this process.

    Raises:
      UsageError: The images cannot be evaluated so (see `check`), one cannot be
        read, or is too long for its width.
    """
    check(eval_protocol, info.task, images)
    super().__init__(images, info, mesh, workers=workers)
    self._is_original = eval_protocol == 'original'
    self._groups = self._grouped()

  def eval_feeds(self, batch_size: int) -> dataset.Feeds:
    """Returns feeds of all images, one shape after the other.

    A feed has 'image' [R,h,w,3] u8, 'label' [R,h,w] u8, of the protocol
    'original' with the sides of the mask, and 'index' and 'mask'; see
    `dataset.EvalSet`. Of a shape with few images a batch is smaller.
    """
    batches = [
      batch
      for group in self._groups
      for batch in rows(group, batch_size, self._mesh)
    ]
    short = self._info.image_size
    items = _Batches(self._images, short, self._is_original, batches)
    return stream.batches(items, 0, 0, self._workers)

  def _grouped(self) -> list[np.ndarray]:
    """Returns the positions of the images of each shape."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in range(len(self._images)):
      shape = source.sides(self._images, i)
      if not self._is_original:
        shape = scaled_sides(shape, self._info.image_size)
      groups.setdefault(shape, []).append(i)
    return [np.array(group, np.int32) for group in groups.values()]


def scaled_sides(sides: tuple[int, ...], short: int) -> tuple[int, int]:
  """Returns `augment_masks.scaled_sides`.

  Raises:
    UsageError: An image is too long for its width.
  """
  if max(sides) > _MOST * min(sides):
    raise errors.UsageError(
      f'an image of {sides[1]}x{sides[0]} pixels is more than {_MOST} times as '
      "long as wide: leave it out, or take eval_protocol 'square'"
    )
  return augment_masks.scaled_sides(sides, short)


def rows(group: np.ndarray, batch_size: int, mesh: Mesh) -> list[Rows]:
  """Returns this process's rows of the batches of images of one shape.

  Args:
    group: The images' positions in the split, [n] i32.
    batch_size: The most images of a batch, over all devices.
    mesh: The devices, over which a batch divides.

  Returns:
    For each batch the positions [R] i32, and [R] f32, which is 0 for padding.
  """
  devices = mesh.shape['data']
  size = min(batch_size, -(-len(group) // devices) * devices)
  feeds = dataset.masked(len(group), size, sharding.rows(mesh, size))
  return [(group[feed['index']], feed['mask']) for feed in feeds]
