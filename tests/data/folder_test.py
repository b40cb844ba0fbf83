import io
import shutil

import numpy as np
from PIL import Image
import pytest

from kd_jax import data, errors
from kd_jax.data import decode
from tests.data import archives


@pytest.fixture
def root(tmp_path):
  """train and val with classes ant, bee; PNG and JPEG files of 20 pixels."""
  rng = np.random.default_rng(0)
  for split, count in (('train', 5), ('val', 2)):
    for name in ('bee', 'ant'):
      folder = tmp_path / split / name
      folder.mkdir(parents=True)
      for i in range(count):
        if i % 2:
          (folder / f'{i}.JPEG').write_bytes(archives.jpeg(rng, 20, grey=True))
        else:
          pixels = rng.integers(0, 256, (20, 20, 3)).astype(np.uint8)
          Image.fromarray(pixels).save(folder / f'{i}.png')
      (folder / 'notes.txt').write_text('no image')
  return tmp_path


def opened(root, **more):
  data.open_source.cache_clear()
  return data.open_source(f'folder:{root}', **more)


def test_a_folder_is_a_data_set(root):
  source = opened(root)
  info = source.info
  assert info.class_names == ('ant', 'bee')
  assert (info.image_size, info.num_train, info.num_test) == (20, 10, 4)
  train = source.arrays('train')
  assert train.labels.tolist() == [0] * 5 + [1] * 5
  want = np.asarray(Image.open(root / 'train/bee/0.png'))
  np.testing.assert_array_equal(train.image[5], want)
  scaled = train.image / 255
  np.testing.assert_allclose(info.mean, scaled.mean((0, 1, 2)), atol=1e-4)
  np.testing.assert_allclose(info.std, scaled.std((0, 1, 2)), atol=1e-4)


def test_a_constant_channel_needs_a_mean_and_a_std(root):
  for path in root.rglob('*/*/[0-9].*'):
    pixels = np.asarray(Image.open(path).convert('RGB')) * np.uint8([1, 0, 1])
    path.unlink()
    Image.fromarray(pixels).save(path.with_suffix('.png'))
  with pytest.raises(
    errors.UsageError, match=r'in train has one value only, .*give mean and std'
  ):
    opened(root)
  info = opened(root, mean=(0.5, 0.0, 0.5), std=(0.2, 1.0, 0.2)).info
  assert (info.mean, info.std) == ((0.5, 0.0, 0.5), (0.2, 1.0, 0.2))


def test_images_of_several_sizes_need_a_size(root):
  Image.new('RGB', (30, 24)).save(root / 'train/ant/wide.png')
  with pytest.raises(errors.UsageError, match=r'^image_size=0: the images of'):
    opened(root)
  source = opened(root, image_size=16)
  assert source.arrays('train').image.shape == (11, 16, 16, 3)


def test_evaluation_takes_the_centre_of_the_scaled_image():
  # A gradient from left to right: its centre is in the middle of the result.
  ramp = np.repeat(np.arange(300, dtype=np.float64)[None, :, None], 200, 0)
  image = np.repeat(ramp * 255 / 299, 3, axis=2).astype(np.uint8)
  fitted = decode.fit(image, 140)
  assert fitted.shape == (140, 140, 3)
  middle = fitted[70, 69:71, 0].mean()
  assert abs(middle - 127) < 2
  # 200 rows become 160, so 140 columns are 175 of 300: a slope of 175/140.
  slope = (float(fitted[70, 139, 0]) - float(fitted[70, 0, 0])) / 139
  assert slope == pytest.approx(255 / 299 * 200 / 160, rel=0.03)


@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
@pytest.mark.parametrize('size', [(17, 23), (64, 64), (125, 50)])
def test_jpeg_files_decode_as_pillow_does(mode, size):
  rng = np.random.default_rng(0)
  coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8))
  file = io.BytesIO()
  coarse.resize(size).convert(mode).save(file, 'JPEG')
  got = decode.decode(file.getvalue(), 'here')
  want = np.asarray(Image.open(file).convert('RGB'))
  np.testing.assert_array_equal(got, want)


def test_random_crops_stay_within_area_and_aspect():
  rng = np.random.default_rng(0)
  y, x = np.mgrid[0:100, 0:100]
  image = np.stack([y, x, y], axis=-1).astype(np.uint8)
  areas = []
  for _ in range(200):
    crop = decode.random_resized_crop(image, 50, rng, (0.2, 0.5))
    height = float(crop[-1, 0, 0]) - float(crop[0, 0, 0])
    width = float(crop[0, -1, 1]) - float(crop[0, 0, 1])
    areas.append(height * width / 1e4)
    assert 0.6 < height / width < 1.6
  assert 0.15 < min(areas) < 0.25
  assert 0.4 < max(areas) < 0.55


def test_an_unreadable_image_is_named(root):
  (root / 'train/bee/2.png').write_bytes(b'not an image')
  with pytest.raises(errors.UsageError, match=r'unreadable image .*bee/2\.png'):
    opened(root)


def test_a_truncated_image_is_named(root):
  path = root / 'train/bee/2.png'
  path.write_bytes(path.read_bytes()[:200])
  with pytest.raises(errors.UsageError, match=r'unreadable image .*bee/2\.png'):
    opened(root)


def test_an_empty_class_is_named(root):
  shutil.rmtree(root / 'val/ant')
  (root / 'val/ant').mkdir()
  with pytest.raises(errors.UsageError, match=r'val/ant holds no image'):
    opened(root)


def test_different_classes_are_named(root):
  (root / 'val/ant').rename(root / 'val/wasp')
  with pytest.raises(errors.UsageError, match='different classes: ant, wasp'):
    opened(root)


def test_a_folder_without_splits_is_refused(tmp_path):
  with pytest.raises(errors.UsageError, match='train/<class>'):
    opened(tmp_path)


def test_held_out_images_are_stratified_and_never_trained_on(root):
  source = opened(root, val_fraction=0.4)
  assert (source.info.num_train, source.info.num_val) == (6, 4)
  train, val = source.arrays('train'), source.arrays('val')
  assert val.labels.tolist() == [0, 0, 1, 1]
  together = np.concatenate([train.image, val.image])
  whole = opened(root).arrays('train').image
  assert sorted(i.tobytes() for i in together) == sorted(
    i.tobytes() for i in whole
  )


@pytest.mark.parametrize('fraction', [-0.1, 1.0])
def test_an_impossible_fraction_is_refused(root, fraction):
  with pytest.raises(errors.UsageError, match='val_fraction'):
    opened(root, val_fraction=fraction)
