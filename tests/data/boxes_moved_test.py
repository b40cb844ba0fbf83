"""Boxes are where their objects are, after the image has been moved."""

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax.data import augment

SIZE, COUNT, PADDING = 12, 64, 4
crop_flip = jax.jit(augment.crop_flip, static_argnums=2)


def drawn():
  """Images with one bright rectangle each, and its box."""
  rng = np.random.default_rng(0)
  first = rng.integers(0, SIZE - 4, (COUNT, 2))
  last = first + rng.integers(2, 5, (COUNT, 2))  # not as high as wide
  images = np.zeros((COUNT, SIZE, SIZE, 3), np.uint8)
  for image, (x1, y1), (x2, y2) in zip(images, first, last, strict=True):
    image[y1:y2, x1:x2] = 255
  boxes = np.concatenate([first, last], axis=1) / SIZE
  return images, boxes[:, None].astype(np.float32)


def moved(padding, *, flip):
  images, boxes = drawn()
  label = jnp.arange(COUNT, dtype=jnp.int32)[:, None] % 3
  how = augment.CropFlip(padding, 'zero', flip)
  images, where = crop_flip(images, jax.random.key(2), how)
  found = augment.targets({'label': label, 'boxes': jnp.array(boxes)}, where)
  return np.asarray(images), jax.tree.map(np.asarray, found), where


def tight(image):
  """The box (x1, y1, x2, y2) of what is bright, in pixels."""
  rows, columns = np.nonzero(image[..., 0])
  low, high = (columns.min(), rows.min()), (columns.max(), rows.max())
  return [*low, *(x + 1 for x in high)]


def test_a_mirrored_box_surrounds_its_mirrored_object():
  images, found, where = moved(0, flip=True)
  assert 0 < np.asarray(where.flipped).sum() < COUNT
  want = [tight(image) for image in images]
  np.testing.assert_allclose(SIZE * found['boxes'][:, 0], want, atol=1e-5)
  assert (found['label'] >= 0).all()


def test_a_cropped_box_surrounds_what_is_left_of_its_object():
  images, found, _ = moved(PADDING, flip=True)
  there = found['label'][:, 0] >= 0
  assert 0 < there.sum() < COUNT
  want = [tight(image) for image in images[there]]
  got = SIZE * found['boxes'][there, 0]
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_an_object_goes_where_its_centre_has_left_the_image():
  _, boxes = drawn()
  _, found, where = moved(PADDING, flip=False)
  centre = SIZE * (boxes[:, 0, :2] + boxes[:, 0, 2:]) / 2
  centre -= np.stack([where.x[:, 0], where.y[:, 0]], axis=1)
  inside = ((centre >= 0) & (centre < SIZE)).all(axis=1)
  clear = (np.abs(centre % SIZE) > 0.1).all(axis=1)  # of the edge itself
  clear &= (np.abs(SIZE - centre % SIZE) > 0.1).all(axis=1)
  assert 0 < inside[clear].sum() < clear.sum()
  got = found['label'][:, 0] >= 0
  np.testing.assert_array_equal(got[clear], inside[clear])
