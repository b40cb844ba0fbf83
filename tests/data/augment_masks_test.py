"""Images and masks are moved together, as the original moves them."""

import numpy as np
import pytest

from kd_jax.data import augment_masks
from kd_jax.data.augment_masks import Masked


def rng_of(seed):
  return np.random.Generator(np.random.Philox(seed))


class Drawn:
  """A generator that gives what it is told, in turn."""

  def __init__(self, *values):
    self.values = list(values)

  def random(self):
    return self.values.pop(0)

  def integers(self, low, high=None):
    low, high = (0, low) if high is None else (low, high)
    value = self.values.pop(0)
    assert low <= value < high
    return value


def pattern(height=90, width=120):
  """A picture of flat areas, and the same areas as labels."""
  y, x = np.mgrid[:height, :width]
  mask = (1 + (y // 30) * 4 + x // 30).astype(np.uint8)
  return np.repeat(mask[..., None] * 15, 3, axis=2), mask


@pytest.mark.parametrize('seed', range(20))
def test_labels_stay_on_what_they_label(seed):
  image, mask = pattern()
  how = Masked(64, (40, 160))
  got, labels = augment_masks.augment(rng_of(seed), image, mask, how)
  assert (got.shape, labels.shape) == ((64, 64, 3), (64, 64))
  assert got.dtype == labels.dtype == np.uint8
  # Between areas the image is interpolated and blurred.
  near = np.abs(got[..., 0].astype(int) - labels.astype(int) * 15) <= 7
  assert near.mean() > 0.75
  assert set(np.unique(labels)) <= {0, *range(1, 13)}


def test_each_step_does_what_was_drawn():
  image, mask = pattern(90, 120)
  # Mirrored, the shorter side becomes 45, padded to 64, cropped, not blurred.
  how = Masked(64, (45, 45))
  # 45 x 60 is smaller than 64 on both sides: the crop is the padded whole.
  got, labels = augment_masks.augment(
    Drawn(0.4, 45, 0, 0, 0.9), image, mask, how
  )
  np.testing.assert_array_equal(labels[:45, :60], mask[1::2, ::-1][:, ::2])
  assert not labels[45:].any()
  assert not labels[:, 60:].any()
  assert not got[45:].any()
  assert not got[:, 60:].any()
  _, void = augment_masks.augment(
    Drawn(0.4, 45, 0, 0, 0.9), image, mask, how._replace(pad_label=255)
  )
  assert (void[45:] == 255).all()
  assert (void[:, 60:] == 255).all()
  np.testing.assert_array_equal(void[:45, :60], labels[:45, :60])


def test_a_crop_is_where_it_was_drawn_and_only_images_are_blurred():
  image, mask = pattern(90, 120)
  how = Masked(64, (90, 90))
  sharp, labels = augment_masks.augment(
    Drawn(0.5, 90, 26, 56, 0.5), image, mask, how
  )
  np.testing.assert_array_equal(sharp, image[26:90, 56:120])
  np.testing.assert_array_equal(labels, mask[26:90, 56:120])
  blurred, same = augment_masks.augment(
    Drawn(0.5, 90, 26, 56, 0.4, 0.9), image, mask, how
  )
  np.testing.assert_array_equal(same, labels)
  assert np.any(blurred != sharp)


@pytest.mark.parametrize(
  ('sides', 'want'),
  [((375, 500), (513, 684)), ((500, 333), (770, 513)), ((9, 9), (513, 513))],
)
def test_the_longer_side_keeps_the_aspect_rounded_down(sides, want):
  assert augment_masks.scaled_sides(sides, 513) == want


def test_the_same_arguments_give_the_same_bits_and_others_do_not():
  image, mask = pattern()
  how = Masked(48, (40, 160))
  results = [
    augment_masks.augment(rng_of(seed), image, mask, how) for seed in (1, 1, 2)
  ]
  for a, b, c in zip(*results, strict=True):
    np.testing.assert_array_equal(a, b)
    assert np.any(a != c)
