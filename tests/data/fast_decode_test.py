import io

from etils import epath
import numpy as np
from PIL import Image
import pytest

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.data import decode, source, stream
from kd_jax.data.sets import folder

AREA = (0.08, 1.0)


def picture(height, width):
  """A smooth image in which both axes and all channels differ."""
  y, x = np.mgrid[:height, :width] / max(height, width)
  waves = [np.sin(9 * x + 4 * y), np.cos(7 * y - 3 * x), np.sin(5 * x * y)]
  return np.uint8(127 + 100 * np.stack(waves, -1))


def file(image, kind='JPEG', **how):
  content = io.BytesIO()
  Image.fromarray(image).save(content, kind, **how)
  return content.getvalue()


def rng(seed):
  return np.random.default_rng(seed)


def crops(content, size, seed):
  whole = decode.decode(content, 'x')
  exact = decode.random_resized_crop(whole, size, rng(seed), AREA)
  fast = decode.decoded_crop(content, 'x', size, rng(seed), AREA)
  assert fast.shape == exact.shape
  assert fast.dtype == exact.dtype
  return fast, exact


@pytest.mark.parametrize('how', [{}, {'progressive': True}])
@pytest.mark.parametrize('sides', [(251, 333), (400, 300)])
def test_a_reduced_crop_shows_the_same_part_of_the_image(sides, how):
  content = file(picture(*sides), quality=92, **how)
  differs = []
  for seed in range(20):
    fast, exact = crops(content, 32, seed)
    # A crop that is moved by a pixel of 32 differs by some 10 levels.
    assert np.abs(fast.astype(int) - exact).mean() < 1.5
    differs.append(not np.array_equal(fast, exact))
  assert sum(differs) > 10


@pytest.mark.parametrize(
  ('kind', 'size'), [('JPEG', 100), ('PNG', 16), ('BMP', 16)]
)
def test_crops_of_small_jpegs_and_other_formats_keep_every_bit(kind, size):
  content = file(picture(120, 150), kind)
  for seed in range(5):
    np.testing.assert_array_equal(*crops(content, size, seed))


def test_what_pillow_reads_is_cropped_from_the_whole_image():
  content = io.BytesIO()
  Image.fromarray(picture(80, 90)).convert('CMYK').save(content, 'JPEG')
  np.testing.assert_array_equal(*crops(content.getvalue(), 8, 0))


def test_a_broken_jpeg_is_refused_with_its_name():
  content = file(picture(300, 300))[:2000]
  with pytest.raises(errors.UsageError, match='unreadable image a/b'):
    decode.decoded_crop(content, 'a/b', 8, rng(0), AREA)


def test_fast_decode_is_of_training_alone_and_reaches_subsets(tmp_path):
  path = epath.Path(tmp_path / 'x.jpg')
  path.write_bytes(file(picture(300, 300)))
  files = folder.Files((path,) * 3, np.arange(3, dtype=np.int32))
  for images in (files, source.Subset(files, np.array([2, 1]))):
    exact, fast = (
      stream.Decoder(images, 8, AREA, fast=fast)(0) for fast in (False, True)
    )
    assert exact['label'] == fast['label'] == images.labels[0]
    assert not np.array_equal(exact['image'], fast['image'])
    whole, quick = (
      stream.Decoder(images, 8, (), fast=fast)(0) for fast in (False, True)
    )
    np.testing.assert_array_equal(whole['image'], quick['image'])


def test_images_without_files_are_cropped_as_before():
  split = source.Arrays(picture(64, 64)[None], np.zeros(1, np.int32))
  for images in (split, source.Subset(split, np.array([0]))):
    exact, fast = (
      stream.Decoder(images, 8, AREA, fast=fast)(0) for fast in (False, True)
    )
    np.testing.assert_array_equal(exact['image'], fast['image'])


def test_fast_decode_needs_random_resized_crops():
  config = config_lib.default()
  config.data.fast_decode = True
  with pytest.raises(errors.UsageError, match='fast_decode=True'):
    config_lib.check_values(config)
  config.data.augment = 'random_resized_crop'
  config_lib.check_values(config)
