"""Boxes of objects: overlaps, priors, matching, coding and suppression.

A box is (x1, y1, x2, y2) in corner form or (cx, cy, w, h) in centre form, in
fractions of the image's width and height. All functions but `Priors.boxes` are
pure, can be traced, and take any leading axes or `vmap`.

Source: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, and the
code that reproduces it, ssd.pytorch 5b0b77f (`box_utils.py`, `prior_box.py`,
`detection.py`).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import errors

# By which the offsets of centres and of the sides' logarithms are divided.
VARIANCES = (0.1, 0.2)


@dataclasses.dataclass(frozen=True)
class Priors:
  """The grid of boxes that a detector corrects, which its maps lay out.

  A position of map i has 2 + 2 len(ratios[i]) priors: squares of the sides
  `least` and sqrt(least*most), then for each ratio r the boxes of the first
  one's area that are r times as wide as high, and r times as high as wide.

  Attributes:
    size: The height and width of the images, in pixels.
    steps: The pixels between two positions of each map.
    least: The side of each map's smaller squares, in pixels.
    most: The side of the next map's, in pixels.
    ratios: The aspect ratios of each map's other priors, above 1.
  """

  size: int
  steps: tuple[int, ...]
  least: tuple[float, ...]
  most: tuple[float, ...]
  ratios: tuple[tuple[float, ...], ...]

  def __post_init__(self):
    """Raises UsageError if the maps' numbers are not as many."""
    counts = {len(x) for x in (self.steps, self.least, self.most, self.ratios)}
    if len(counts) != 1:
      raise errors.ArgumentError(
        f'{self}: give steps, least, most and ratios of as many maps'
      )

  @property
  def sides(self) -> tuple[int, ...]:
    """The height and width of every map, in positions."""
    return tuple(-(-self.size // step) for step in self.steps)

  @property
  def anchors(self) -> tuple[int, ...]:
    """The priors at a position of every map."""
    return tuple(2 + 2 * len(ratios) for ratios in self.ratios)

  @functools.cached_property
  def boxes(self) -> np.ndarray:
    """The priors in centre form, clipped to 0..1, [P,4] f32.

    Their order is by map, row, column and shape. As in the original the
    numbers of the centre form are clipped, so that a wide prior at the left
    edge still reaches out of the image.
    """
    maps = zip(
      self.steps, self.sides, self.least, self.most, self.ratios, strict=True
    )
    grids = []
    for step, side, least, most, ratios in maps:
      shapes = [(least, least), ((least * most) ** 0.5,) * 2]
      for root in np.sqrt(ratios):
        shapes += [(least * root, least / root), (least / root, least * root)]
      centre = (np.arange(side) + 0.5) * step
      grid = np.empty((side, side, len(shapes), 4))
      grid[..., 0] = centre[None, :, None]
      grid[..., 1] = centre[:, None, None]
      grid[..., 2:] = np.array(shapes)[None, None]
      grids.append(grid.reshape(-1, 4))
    whole = np.concatenate(grids) / self.size
    return whole.clip(0, 1).astype(np.float32)


# Of SSD300 on Pascal VOC: 8,732 priors.
SSD300 = Priors(
  size=300,
  steps=(8, 16, 32, 64, 100, 300),
  least=(30, 60, 111, 162, 213, 264),
  most=(60, 111, 162, 213, 264, 315),
  ratios=((2,), (2, 3), (2, 3), (2, 3), (2,), (2,)),
)
# Of the embedded scenes, whose objects are about 11x19 pixels: 756 priors.
SCENES = Priors(
  size=48,
  steps=(4, 8, 16),
  least=(12, 18, 26),
  most=(18, 26, 34),
  ratios=((2,), (2,), (2,)),
)


def corners(boxes: jax.Array) -> jax.Array:
  """Returns boxes in corner form, [...,4] f32, of the centre form [...,4]."""
  centre, size = boxes[..., :2], boxes[..., 2:]
  return jnp.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def centred(boxes: jax.Array) -> jax.Array:
  """Returns boxes in centre form, [...,4] f32, of the corner form [...,4]."""
  first, last = boxes[..., :2], boxes[..., 2:]
  return jnp.concatenate([(first + last) / 2, last - first], axis=-1)


def iou(a: jax.Array, b: jax.Array) -> jax.Array:
  """Returns the intersection over the union of all pairs of boxes.

  Args:
    a: Boxes in corner form, [...,A,4] f32.
    b: Boxes in corner form, [...,B,4] f32.

  Returns:
    [...,A,B] f32; 0 for two boxes without area.
  """
  a, b = a[..., :, None, :], b[..., None, :, :]
  first = jnp.maximum(a[..., :2], b[..., :2])
  last = jnp.minimum(a[..., 2:], b[..., 2:])
  both = jnp.prod(jnp.maximum(last - first, 0), axis=-1)
  areas = (jnp.prod(x[..., 2:] - x[..., :2], axis=-1) for x in (a, b))
  union = sum(areas) - both
  return jnp.where(union > 0, both / jnp.where(union > 0, union, 1), 0)


def encode(boxes: jax.Array, priors: jax.Array) -> jax.Array:
  """Returns the offsets that make boxes of priors; see `decode`.

  Args:
    boxes: Boxes in corner form with sides above 0, [...,P,4] f32.
    priors: Priors in centre form, [...,P,4] f32.

  Returns:
    [...,P,4] f32: the centres' distances in a tenth of the prior's sides, and
    the logarithms of the sides' ratios in fifths.
  """
  boxes = centred(boxes)
  moved = (boxes[..., :2] - priors[..., :2]) / (VARIANCES[0] * priors[..., 2:])
  grown = jnp.log(boxes[..., 2:] / priors[..., 2:]) / VARIANCES[1]
  return jnp.concatenate([moved, grown], axis=-1)


def decode(offsets: jax.Array, priors: jax.Array) -> jax.Array:
  """Returns the boxes that offsets make of priors.

  Args:
    offsets: [...,P,4] f32.
    priors: Priors in centre form, [...,P,4] f32.

  Returns:
    Boxes in corner form, [...,P,4] f32, which may reach out of the image.
  """
  moved, grown = offsets[..., :2], offsets[..., 2:]
  centre = priors[..., :2] + VARIANCES[0] * moved * priors[..., 2:]
  size = priors[..., 2:] * jnp.exp(VARIANCES[1] * grown)
  return corners(jnp.concatenate([centre, size], axis=-1))


def match(
  boxes: jax.Array,
  labels: jax.Array,
  priors: jax.Array,
  threshold: float = 0.5,
) -> tuple[jax.Array, jax.Array]:
  """Returns what every prior of an image is to predict.

  A prior takes the object with which its overlap is largest, of equal ones the
  first. Then each object takes the prior with which its overlap is largest,
  whatever the overlap; where that is the same for two objects, the later one
  has it.

  Args:
    boxes: The image's objects in corner form, [M,4] f32; a row whose label is
      negative may hold anything.
    labels: The objects' classes from 0, [M] i32; a negative one pads.
    priors: Priors in centre form, [P,4] f32.
    threshold: The overlap below which a prior is background.

  Returns:
    The priors' classes, [P] i32: label + 1, or 0 for the background; and the
    objects' boxes in corner form, [P,4] f32. In an image without objects the
    latter are the priors themselves, whose offsets are 0.
  """
  count, present = len(priors), labels >= 0
  # No numbers of a padded row reach an overlap, a logarithm or a gradient.
  anywhere = jnp.array([[0.0, 0.0, 1.0, 1.0]], jnp.float32)
  boxes = jnp.where(present[:, None], boxes, anywhere)
  overlaps = jnp.where(present[:, None], iou(boxes, corners(priors)), -1.0)
  taken = overlaps.argmax(axis=0)
  best = overlaps.argmax(axis=1)
  wants = (best[:, None] == jnp.arange(count)[None, :]) & present[:, None]
  number = jnp.arange(len(labels))[:, None]
  forced = jnp.where(wants, number, -1).max(axis=0)
  taken = jnp.where(forced >= 0, forced, taken)
  positive = (forced >= 0) | (overlaps.max(axis=0) >= threshold)
  classes = jnp.where(positive, labels[taken] + 1, 0).astype(jnp.int32)
  return classes, jnp.where(present.any(), boxes[taken], corners(priors))


def targets(
  boxes: jax.Array, labels: jax.Array, priors: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns what a detector is to predict of a batch; see `match`.

  Args:
    boxes: The objects in corner form, [N,M,4] f32.
    labels: Their classes from 0, [N,M] i32; a negative one pads.
    priors: Priors in centre form, [N,P,4] f32.

  Returns:
    The classes [N,P] i32, 0 for the background, and the offsets [N,P,4] f32,
    those of the background too.
  """
  classes, matched = jax.vmap(match)(boxes, labels, priors)
  return classes, encode(matched, priors)


def keep(
  boxes: jax.Array, scores: jax.Array, threshold: float = 0.45
) -> jax.Array:
  """Returns which boxes greedy non-maximum suppression keeps.

  Args:
    boxes: Boxes in corner form by falling score, [T,4] f32.
    scores: Their scores, [T] f32; those of 0 are not kept and suppress none.
    threshold: The overlap above which a box suppresses the later ones.

  Returns:
    [T] bool.
  """
  overlaps = iou(boxes, boxes) > threshold
  later = jnp.arange(len(scores))

  def suppress(i, kept):
    return kept & ~(kept[i] & overlaps[i] & (later > i))

  return jax.lax.fori_loop(0, len(scores), suppress, scores > 0)


def detect(
  boxes: jax.Array,
  scores: jax.Array,
  *,
  top: int = 200,
  least: float = 0.01,
  threshold: float = 0.45,
) -> jax.Array:
  """Returns the detections of a batch, class by class, in a fixed shape.

  Args:
    boxes: Boxes in corner form, [N,P,4] f32.
    scores: The scores of the K classes without the background, [N,P,K] f32.
    top: The boxes of a class with the highest scores that are looked at.
    least: The score above which they are; no NaN is.
    threshold: See `keep`.

  Returns:
    [N,K,T,5] f32, with T = min(top, P): the score and the box in corner form,
    by falling score; rows of zeros fill what is suppressed.

  Source: `Detect` of ssd.pytorch, which has no limit over all classes.
  """
  scores = jnp.where(scores > least, scores, 0.0)

  def of_class(boxes, scores):
    scores, best = jax.lax.top_k(scores, min(top, len(scores)))
    boxes = boxes[best]
    kept = keep(boxes, scores, threshold)
    rows = jnp.concatenate([scores[:, None], boxes], axis=1)
    rows = jnp.where(kept[:, None], rows, 0.0)
    return rows[jnp.argsort(~kept, stable=True)]

  by_class = jax.vmap(of_class, in_axes=(None, 1))
  return jax.vmap(by_class)(boxes, scores)


def strongest(detections: jax.Array, count: int = 200) -> jax.Array:
  """Returns the detections with the highest scores of all classes.

  Args:
    detections: The result of `detect`, [N,K,T,5] f32.
    count: The number that is kept, R; at most K*T are there.

  Returns:
    [N,R,6] f32: the class from 0, the score and the box, by falling score; in
    rows that pad the class is -1 and the rest is 0.
  """
  images, classes, rows, _ = detections.shape
  flat = detections.reshape(images, classes * rows, 5)
  scores, best = jax.lax.top_k(flat[..., 0], min(count, classes * rows))
  label = jnp.where(scores > 0, best // rows, -1).astype(jnp.float32)
  chosen = jnp.take_along_axis(flat, best[..., None], axis=1)
  return jnp.concatenate([label[..., None], chosen], axis=-1)
