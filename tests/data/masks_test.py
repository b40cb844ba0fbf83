"""Masks move as their images do, streamed as resident."""

import itertools

import jax
import numpy as np
import pytest

from kd_jax.data import augment, resident, stream
from kd_jax.runtime import sharding
from tests import few_scenes

SIZE = few_scenes.SIZE


@pytest.mark.parametrize('mode', ['zero', 'reflect'])
def test_a_mask_moves_as_its_image(mode):
  """Every image is painted with its mask, so that they must stay alike."""
  mask = np.random.default_rng(0).integers(1, 11, (16, 9, 9)).astype(np.uint8)
  image = np.repeat(mask[..., None], 3, axis=-1)
  how = augment.CropFlip(3, mode, True)

  @jax.jit
  def moved(image, mask):
    images, where = augment.crop_flip(image, jax.random.key(2), how)
    return images, augment.targets({'label': mask}, where)['label'], where

  images, masks, where = moved(image, mask)
  assert masks.dtype == np.int32
  void = np.asarray(masks) == augment.VOID
  assert void.any() == (mode == 'zero')
  np.testing.assert_array_equal(np.where(void, 0, masks), images[..., 0])
  assert 0 < np.asarray(where.flipped).sum() < 16
  assert np.any(np.asarray(masks) != mask)


def test_streamed_batches_with_masks_are_the_resident_ones_bit_for_bit():
  arrays, info = few_scenes.part('train'), few_scenes.info()
  mesh = sharding.make_mesh(1)
  common = {
    'batch_size': 8,
    'seed': 3,
    'crop_flip': augment.CropFlip(2, 'zero', True),
  }
  sets = (
    resident.Training(arrays, info, mesh, **common),
    stream.Streamed(arrays, info, mesh, workers=0, steps=9, **common),
  )
  found = []
  for dataset in sets:
    batch = jax.jit(dataset.batch)
    feeds = itertools.islice(dataset.feeds(3), 3)
    found.append(
      [
        batch(dataset.arrays, feed, jax.random.key(i))
        for i, feed in enumerate(feeds)
      ]
    )
  for want, got in zip(*found, strict=True):
    assert set(got) == set(want) == {'image', 'label', 'index'}
    for name, value in want.items():
      np.testing.assert_array_equal(got[name], value)
      assert got[name].dtype == value.dtype
