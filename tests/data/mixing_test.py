"""Mixup, CutMix and smoothed labels, against the formulas and timm."""

import functools
import itertools

import jax
import numpy as np
import pytest

from kd_jax.data import augment, mixing, resident, source, stream
from kd_jax.runtime import sharding
from tests.methods import vectors

CLASSES, SIZE = 3, 6
INFO = source.Info(
  'x', ('a', 'b', 'c'), SIZE, 9, 0, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
)
REFERENCE = np.load(vectors.STORED / 'augment.npz')


def given(seed=0, count=4):
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (count, SIZE, SIZE, 3)).astype(np.uint8)
  return images, rng.integers(0, CLASSES, count).astype(np.int32)


@functools.cache
def of_keys(**how):
  """What four keys make of the images."""
  draw = functools.partial(mixing.mixed, how=mixing.Mixing(CLASSES, **how))
  keys = jax.random.split(jax.random.key(0), 4)
  return jax.jit(jax.vmap(draw, (None, None, 0)))(*given(), keys)


def of_key(key, **how):
  return (np.asarray(x)[key] for x in of_keys(**how))


def weights(label, mixed):
  """The least-squares share of the own label in a mixed one, for each image."""
  own, other = np.eye(CLASSES)[label], np.eye(CLASSES)[label[::-1]]
  part = ((mixed - other) * (own - other)).sum(-1)
  return part / np.square(own - other).sum(-1)


@pytest.mark.parametrize('key', range(3))
def test_mixup_weighs_images_and_labels_alike_to_the_last_bit(key):
  images, label = given()
  pixels, mixed = of_key(key, mixup=1.0)
  (ratio,) = {*weights(label, np.asarray(mixed, np.float64)).tolist()}
  assert ratio * 65536 == round(ratio * 65536)
  whole = images.astype(np.float64)
  np.testing.assert_array_equal(
    pixels, ratio * whole + (1 - ratio) * whole[::-1]
  )


@pytest.mark.parametrize('key', range(4))
def test_cutmix_fills_one_box_and_gives_labels_the_share_of_its_area(key):
  images, label = given()
  pixels, mixed = of_key(key, cutmix=1.0)
  own = np.asarray(pixels == images)
  theirs = np.asarray(pixels == images[::-1])
  assert (own | theirs).all()
  inside = ~own.all((0, 3))
  rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
  assert inside.sum() == len(rows) * len(columns)  # a rectangle
  ratio = 1 - inside.mean()
  np.testing.assert_allclose(weights(label, mixed), ratio, atol=2**-16)


def test_a_box_spans_what_timms_spans():
  for side, ratio, centre, first, last in REFERENCE['boxes']:
    got = mixing.span(int(side), np.float32(ratio), np.int32(centre))
    assert [*map(int, got)] == [first, last], (side, ratio, centre)


def test_smoothed_and_mixed_labels_are_timms():
  ratio, smoothing = REFERENCE['target_of'].tolist()
  how = mixing.Mixing(5, mixup=1.0, smoothing=smoothing)
  got = mixing.softened(REFERENCE['label'], ratio, how)
  np.testing.assert_allclose(got, REFERENCE['target'], atol=1e-7)


def test_smoothing_alone_leaves_the_images_and_the_class():
  images, label = given()
  pixels, smooth = of_key(0, smoothing=0.25)
  assert pixels.dtype == np.uint8
  np.testing.assert_array_equal(pixels, images)
  np.testing.assert_array_equal(np.argmax(smooth, -1), label)
  np.testing.assert_allclose(smooth.max(-1), 0.75 + 0.25 / 3, rtol=1e-6)


def test_ratios_are_of_the_beta_distribution():
  how = mixing.Mixing(2, mixup=0.2)
  keys = jax.random.split(jax.random.key(0), 4000)
  label = np.array([0, 1], np.int32)
  images = np.zeros((2, 1, 1, 3), np.uint8)
  shares = jax.jit(
    jax.vmap(lambda key: mixing.mixed(images, label, key, how)[1][0, 0])
  )(keys)
  # Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1)): 0.1786. Of 4000 draws
  # the mean has a deviation of 0.0067.
  np.testing.assert_allclose(np.mean(shares), 0.5, atol=0.03)
  np.testing.assert_allclose(np.var(shares), 1 / 5.6, atol=0.01)


def test_a_batch_is_mixed_with_its_probability_and_cut_with_its_own():
  images, label = given()
  how = mixing.Mixing(CLASSES, 1.0, 1.0, probability=0.6, switch=0.25)
  keys = jax.random.split(jax.random.key(1), 800)
  draw = jax.jit(jax.vmap(lambda key: mixing.mixed(images, label, key, how)[0]))
  pixels = np.asarray(draw(keys))
  whole = (pixels == np.round(pixels)).all((1, 2, 3, 4))
  plain = (pixels == images).all((1, 2, 3, 4))
  # A box of no pixels makes a cut batch plain: of these sides about one in ten.
  np.testing.assert_allclose(plain.mean(), 0.4, atol=0.08)
  np.testing.assert_allclose(whole.mean(), 0.4 + 0.6 * 0.25, atol=0.06)


def test_mixed_batches_are_streamed_as_on_the_device_bit_for_bit():
  images, label = given(count=9)
  arrays, mesh = source.Arrays(images, label), sharding.make_mesh(1)
  how = {
    'batch_size': 4,
    'seed': 3,
    'crop_flip': augment.CropFlip(1, 'zero', True),
    'mixed': mixing.Mixing(CLASSES, 0.4, 1.0, 0.9, 0.5, 0.1, True),
  }
  splits = (
    resident.Training(arrays, INFO, mesh, **how),
    stream.Streamed(arrays, INFO, mesh, workers=0, steps=9, **how),
  )
  jitted = [jax.jit(split.batch) for split in splits]
  feeds = [itertools.islice(split.feeds(2), 5) for split in splits]
  for step, pair in enumerate(zip(*feeds, strict=True)):
    key = jax.random.key(step)
    first, second = (
      batch(split.arrays, feed, key)
      for batch, split, feed in zip(jitted, splits, pair, strict=True)
    )
    assert set(first) == {'image', 'label', 'index', 'plain'}
    for name in first:
      np.testing.assert_array_equal(first[name], second[name])
