"""Mixup, CutMix and label smoothing of a batch on the device.

Every image is mixed with its partner, the image of the mirrored position in the
batch, as in timm. The batch is in random order, so that this is a random
pairing, as the papers' code makes by a permutation, and it costs no gather. A
batch has one ratio, and of CutMix one box, as in both.

Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018;
Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with
Localizable Features", ICCV 2019 (clovaai/CutMix-PyTorch, `rand_bbox`); Szegedy
et al., "Rethinking the Inception Architecture", CVPR 2016 (label smoothing);
the choice between the two and the order of smoothing and mixing are those of
timm's `Mixup`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

# A ratio is a multiple of 1/65536. An 8-bit pixel times it is then exact in
# float32, and so is the sum of two: whatever a compiler fuses, the pixels of a
# batch are the same bits.
_UNITS = 65536
_QUANTILES = 4096  # of the distribution of ratios


class Mixing(NamedTuple):
  """How the images and labels of a training batch are mixed.

  Attributes:
    classes: The number of classes, K.
    mixup: Alpha of mixup: the ratio is drawn from Beta(alpha, alpha). 0 is off.
    cutmix: Alpha of CutMix, whose ratio is the area that an image keeps. 0 is
      off.
    probability: The probability that a batch is mixed at all.
    switch: The probability that a mixed batch is one of CutMix where both are
      on.
    smoothing: The share of a label that is spread evenly over all K classes.
    keeps_plain: Whether the batch keeps the images before mixing too, under
      'plain', for the teachers.
  """

  classes: int
  mixup: float = 0.0
  cutmix: float = 0.0
  probability: float = 1.0
  switch: float = 0.5
  smoothing: float = 0.0
  keeps_plain: bool = False

  @property
  def mixes(self) -> bool:
    """Whether images are mixed."""
    return bool(self.probability and (self.mixup or self.cutmix))

  @property
  def softens(self) -> bool:
    """Whether labels are probabilities [N,K] and not class indices."""
    return bool(self.mixes or self.smoothing)


def mixed(
  images: jax.Array, label: jax.Array, key: jax.Array, how: Mixing
) -> tuple[jax.Array, jax.Array]:
  """Returns mixed images with their labels.

  Args:
    images: The images, [N,H,W,3] u8.
    label: Their class indices, [N] i32.
    key: The random key of the batch.
    how: The mixing.

  Returns:
    The images [N,H,W,3], f32 in 0..255 where they are mixed and else as they
    were, and the labels: probabilities [N,K] f32 where `how.softens`, and else
    as they were.
  """
  if not how.softens:
    return images, label
  ratio: Any = 1.0
  if how.mixes:
    own, ratio = _shares(key, images.shape[1:3], how)
    images = _sum(images.astype(jnp.float32), own[None, :, :, None])
  return images, softened(label, ratio, how)


def softened(label: jax.Array, ratio: Any, how: Mixing) -> jax.Array:
  """Returns the labels of mixed images, smoothed.

  Args:
    label: The images' class indices, [N] i32.
    ratio: The share of an image's own label, [] f32.
    how: The mixing.

  Returns:
    Probabilities, [N,K] f32.
  """
  share = _sum(jax.nn.one_hot(label, how.classes), ratio)
  if how.smoothing:
    share = share * (1 - how.smoothing) + how.smoothing / how.classes
  return share


def _sum(values: jax.Array, own: Any) -> jax.Array:
  """Returns `values` [N,...] times `own`, plus their partners' times the rest.

  Args:
    values: Whole numbers from 0 to 255, f32.
    own: The share that an image keeps, a multiple of 1/65536 from 0 to 1.
  """
  return values * own + values[::-1] * (1 - own)


def _shares(
  key: jax.Array, sides: tuple[int, ...], how: Mixing
) -> tuple[jax.Array, jax.Array]:
  """Returns the share that an image keeps of each pixel, and of its label.

  Args:
    key: The random key of the batch.
    sides: The images' height and width, in pixels.
    how: The mixing.

  Returns:
    Shares [H,W] f32 (or [1,1] without CutMix), and the share of the label [],
    which is their mean: multiples of 1/65536.
  """
  keys = jax.random.split(key, 4)
  kept: Any = jnp.ones((1, 1))
  if how.mixup:
    kept = _rounded(_beta(keys[0], how.mixup)).reshape(1, 1)
  ratio = kept[0, 0]
  if how.cutmix:
    outside, area = box(keys[1], sides, _beta(keys[0], how.cutmix))
    both = how.mixup > 0
    cuts = jax.random.bernoulli(keys[2], how.switch) if both else True
    kept = jnp.where(cuts, outside, kept)
    ratio = jnp.where(cuts, _rounded(area), ratio)
  if how.probability < 1:
    mixes = jax.random.bernoulli(keys[3], how.probability)
    kept, ratio = jnp.where(mixes, kept, 1.0), jnp.where(mixes, ratio, 1.0)
  return kept, ratio


def _beta(key: jax.Array, alpha: float) -> jax.Array:
  """Returns a draw from Beta(alpha, alpha), [] f32.

  It is one of 4096 quantiles, which are equally probable: rejection sampling
  would be loops of tiny programs in each step.
  """
  parts = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
  quantiles = special.betaincinv(alpha, alpha, parts).astype(np.float32)
  return jnp.asarray(quantiles)[jax.random.randint(key, (), 0, _QUANTILES)]


def _rounded(share: jax.Array) -> jax.Array:
  return jnp.round(share * _UNITS) / _UNITS


def box(
  key: jax.Array, sides: tuple[int, ...], ratio: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns where a batch of CutMix keeps its own pixels, and their share.

  The box has sqrt(1 - ratio) of the height and of the width, rounded down, and
  its centre anywhere in the image. What of it lies outside is cut off, and the
  share is that of what is left.

  Args:
    key: The random key.
    sides: The images' height and width, in pixels.
    ratio: The wanted share of kept pixels, [] f32.

  Returns:
    1 outside the box and 0 inside, [H,W] f32, and the share of kept pixels,
    [] f32.
  """
  inside = []
  for side, axis_key in zip(sides, jax.random.split(key), strict=True):
    first, last = span(side, ratio, jax.random.randint(axis_key, (), 0, side))
    position = jnp.arange(side)
    inside.append((position >= first) & (position < last))
  area = inside[0].sum() * inside[1].sum()
  outside = ~(inside[0][:, None] & inside[1][None, :])
  return outside.astype(jnp.float32), 1 - area / (sides[0] * sides[1])


def span(
  side: int, ratio: jax.Array, centre: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns the first position of a box along an axis, and that after it.

  The released code halves odd lengths downwards at both ends; this is timm's
  span, which has the whole length.

  Args:
    side: The image's side, in pixels.
    ratio: The wanted share of kept pixels, f32.
    centre: The centre of the box, i32.
  """
  length = (jnp.sqrt(1 - ratio) * side).astype(jnp.int32)
  first = jnp.maximum(centre - length // 2, 0)
  return first, jnp.minimum(centre + (length + 1) // 2, side)
