"""A box stays on its object, whatever happens to the image."""

import colorsys

import numpy as np
import pytest

from kd_jax.data import augment_boxes as lib

MEAN = (0.4, 0.5, 0.6)
PLAIN = lib.Boxed(96, MEAN, photometric=False, expand=1, crop=False, flip=False)
COLOURS = np.array([[250, 0, 0], [0, 250, 0]], np.uint8)


def painted(height=80, width=120):
  """An image of two objects in colours of their own, with their boxes."""
  image = np.full((height, width, 3), 128, np.uint8)
  boxes = np.array([[12, 20, 48, 60], [66, 8, 108, 40]], np.float32)
  for (x1, y1, x2, y2), colour in zip(boxes.astype(int), COLOURS, strict=True):
    image[y1:y2, x1:x2] = colour
  boxes /= (width, height, width, height)
  return image, boxes, np.array([0, 1], np.int32)


def seen_again(image, label):
  """The box of an object, in pixels, found by its colour."""
  distance = np.abs(image.astype(int) - COLOURS[label]).sum(axis=-1)
  y, x = np.nonzero(distance < 150)
  return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1])


MOVES = {
  'nothing': {},
  'flip': {'flip': True},
  'expand': {'expand': 4.0},
  'crop': {'crop': True},
  'all': {'flip': True, 'expand': 4.0, 'crop': True},
}


@pytest.mark.parametrize('name', MOVES)
def test_a_box_stays_on_its_object(name):
  image, boxes, labels = painted()
  how = PLAIN._replace(**MOVES[name])
  moved = set()
  for seed in range(60):
    rng = np.random.default_rng(seed)
    got, new, kept = lib.augment(rng, image, boxes, labels, how)
    assert got.shape == (96, 96, 3)
    assert (got.dtype, new.dtype) == (np.uint8, np.float32)
    assert len(kept) == len(new) > 0
    for box, label in zip(new, kept, strict=True):
      # Half of a pixel between colours, and some interpolation around it.
      want = seen_again(got, label)
      np.testing.assert_allclose(box * 96, want, atol=2.0)
    moved.add(new.tobytes())
  assert (len(moved) > 1) == (name != 'nothing')


def test_without_changes_an_image_is_resized_without_its_aspect():
  image, boxes, labels = painted(120, 120)
  how = PLAIN._replace(size=120)
  got = lib.augment(np.random.default_rng(0), image, boxes, labels, how)
  for new, old in zip(got, (image, boxes, labels), strict=True):
    np.testing.assert_array_equal(new, old)


def test_the_result_depends_on_the_generator_alone():
  image, boxes, labels = painted()
  how = lib.Boxed(48, MEAN)
  before = image.copy(), boxes.copy()
  results = [
    lib.augment(np.random.default_rng(seed), image, boxes, labels, how)
    for seed in (3, 3, 4)
  ]
  for a, b in zip(*results[:2], strict=True):
    np.testing.assert_array_equal(a, b)
  assert not np.array_equal(results[0][0], results[2][0])
  np.testing.assert_array_equal(image, before[0])
  np.testing.assert_array_equal(boxes, before[1])


def test_around_an_image_that_is_made_smaller_is_the_mean():
  image, boxes, labels = painted()
  how = PLAIN._replace(expand=4.0)
  shares = []
  for seed in range(40):
    got, new, _ = lib.augment(
      np.random.default_rng(seed), image, boxes, labels, how
    )
    around = (got == np.round(255 * np.array(MEAN))).all(axis=-1)
    shares.append(around.mean())
    share = (new[0, 2] - new[0, 0]) / (boxes[0, 2] - boxes[0, 0])
    assert around.mean() == pytest.approx(1 - share**2, abs=0.03)
  assert min(shares) == 0
  assert max(shares) > 0.8


@pytest.mark.parametrize('least', [0.1, 0.3, 0.7, 0.9])
def test_some_object_overlaps_a_crop_by_the_least_overlap(least, monkeypatch):
  monkeypatch.setattr(lib, 'CROPS', (least,))
  boxes = np.array([[0.0, 0.05, 0.95, 1.0], [0.1, 0.1, 0.2, 0.2]])
  for seed in range(20):
    window = lib.cropped(np.random.default_rng(seed), boxes, 1.0)
    assert lib.overlaps(boxes, window).max() >= least


def test_crops_have_the_papers_sides_and_aspects():
  boxes = np.array([[0.4, 0.4, 0.6, 0.6]])
  windows = np.array(
    [
      lib.cropped(np.random.default_rng(seed), boxes, 0.75)
      for seed in range(200)
    ]
  )
  whole = (windows == lib.WHOLE).all(axis=1)
  assert 0.1 < whole.mean() < 0.7  # 1 of 6 draws, and where none fits
  width, height = lib.sides(windows[~whole]).T
  assert min(width.min(), height.min()) >= 0.3
  ratio = 0.75 * height / width
  assert 0.5 <= ratio.min() < 0.6
  assert 1.5 < ratio.max() <= 2
  assert windows.min() >= 0
  assert windows.max() <= 1
  assert ((windows[:, :2] < 0.5) & (windows[:, 2:] > 0.5)).all()


def test_objects_whose_centres_are_outside_are_left_out_and_others_clipped():
  boxes = np.array([[0.0, 0.0, 0.5, 0.5], [0.4, 0.4, 0.8, 0.8]])
  window = np.array([0.5, 0.5, 1.0, 1.0])
  got = lib.seen(boxes, window)
  np.testing.assert_allclose(got[1], [-0.2, -0.2, 0.6, 0.6])
  image, _, labels = painted()
  how = PLAIN._replace(crop=True)
  for seed in range(30):
    _, new, kept = lib.augment(
      np.random.default_rng(seed), image, boxes, labels, how
    )
    assert new.min() >= 0
    assert new.max() <= 1
    assert (lib.sides(new) > 0).all()
    assert set(kept) <= {0, 1}


def test_an_image_without_objects_is_augmented_too():
  image, boxes, labels = painted()
  for seed in range(8):
    got, new, kept = lib.augment(
      np.random.default_rng(seed), image, boxes[:0], labels[:0],
      lib.Boxed(48, MEAN),
    )  # fmt: skip
    assert got.shape == (48, 48, 3)
    assert (new.shape, kept.shape) == ((0, 4), (0,))


def test_hue_saturation_and_value_are_those_of_colorsys():
  rng = np.random.default_rng(0)
  pixels = rng.uniform(0, 255, (4, 5, 3)).astype(np.float32)
  pixels[0, 0], pixels[0, 1] = 0, 77
  got = np.stack(lib.hsv(pixels), axis=-1)
  for place in np.ndindex(4, 5):
    hue, saturation, value = colorsys.rgb_to_hsv(*(pixels[place] / 255))
    want = 360 * hue, saturation, 255 * value
    np.testing.assert_allclose(got[place], want, rtol=1e-4, atol=1e-3)
  again = lib.rgb(*np.moveaxis(got, -1, 0))
  np.testing.assert_allclose(again, pixels, rtol=1e-4, atol=1e-3)


def test_colours_change_and_edges_stay():
  image, _, _ = painted()
  results = [
    lib.photometric(np.random.default_rng(seed), image) for seed in range(40)
  ]
  assert len({result.tobytes() for result in results}) > 30
  for result in results:
    assert result.dtype == np.uint8
    # The object is of one colour still.
    assert len(np.unique(result[20:60, 12:48].reshape(-1, 3), axis=0)) == 1
  levels = np.array([result[0, 0].mean() for result in results])
  assert levels.min() < 80 < 180 < levels.max()


def test_a_window_shows_its_part_of_the_image():
  image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1).repeat(3, axis=2)
  got = lib.shown(image, (0.25, 0.5, 0.75, 1.0), 4)
  np.testing.assert_array_equal(got, image[4:8, 2:6])
  got = lib.shown(image, (0.75, 0.5, 0.25, 1.0), 4)
  np.testing.assert_array_equal(got, image[4:8, 2:6][:, ::-1])


def test_a_crops_aspect_is_that_of_its_pixels():
  image = np.zeros((40, 160, 3), np.uint8)  # a crop has half its width or less
  boxes, labels = np.array([[0.49, 0.4, 0.51, 0.6]]), np.zeros(1, np.int32)
  how, growth = PLAIN._replace(crop=True), []
  for seed in range(40):
    rng = np.random.default_rng(seed)
    _, new, _ = lib.augment(rng, image, boxes, labels, how)
    if new[0, 0] > 0 and new[0, 2] < 1:
      growth.append((new[0, 2] - new[0, 0]) / 0.02)
  growth = np.array(growth)
  assert ((growth > 1.999) | (np.abs(growth - 1) < 1e-4)).all()
  assert growth.max() > 2
