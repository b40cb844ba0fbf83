"""Labels of data sets that tfds prepared, by their key and their kind."""

import io

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from kd_jax import data, errors
from kd_jax.data.sets import prepared

F = tfds.features
COUNT = 8
FEATURES = {
  'image': F.Image(shape=(6, 6, 3)),
  'deep': F.Image(shape=(6, 6, 1), dtype=np.uint16, encoding_format='png'),
  'kind': F.ClassLabel(names=['ant', 'bee']),
  'unsaid': F.ClassLabel(num_classes=3),
  'label': F.Scalar(np.int64),
  'year': F.Scalar(np.int64),
  'note': F.Text(),
}
LEVELS = (np.arange(COUNT * 36) * 227).astype(np.uint16)
LEVELS = LEVELS.reshape(COUNT, 6, 6, 1)


def prepare(called, home, features, examples):
  class Some(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version('1.0.0')
    name = called

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self, features=F.FeaturesDict(features)
      )

    def _split_generators(self, manager):
      del manager
      return {split: enumerate(examples()) for split in ('train', 'test')}

    def _generate_examples(self):
      raise NotImplementedError

  tfds.disable_progress_bar()
  builder = Some(data_dir=str(home), file_format='array_record')
  builder.download_and_prepare()


def picture(i):
  content = io.BytesIO()
  Image.new('RGB', (6, 6), (i, 2 * i, 3 * i)).save(content, 'PNG')
  content.seek(0)
  return content


def deep(i):
  content = io.BytesIO()
  Image.fromarray(LEVELS[i, ..., 0]).save(content, 'PNG')
  content.seek(0)
  return content


@pytest.fixture(scope='module')
def home(tmp_path_factory):
  folder = tmp_path_factory.mktemp('home')

  def examples():
    for i in range(COUNT):
      yield {
        'image': picture(i),
        'deep': deep(i),
        'kind': i % 2,
        'unsaid': -1 if i < 3 else i % 3,
        'label': i % 4,
        'year': 1990 + i,
        'note': 'a note',
      }

  prepare('several', folder, FEATURES, examples)
  return folder


def opened(name, home):
  data.open_source.cache_clear()
  return data.open_source(name, data_dir=str(home))


def test_labels_and_images_are_read_by_their_keys(home):
  source = opened('several?label=kind', home)
  assert source.info.name == 'several?label=kind'
  assert source.info.class_names == ('ant', 'bee')
  got = source.arrays('train')
  for pixels, label in zip(got.image, got.labels, strict=True):
    assert pixels[0, 0, 0] % 2 == label
  source = opened('several?label=label&image=deep', home)
  assert source.info.class_names == ('0', '1', '2', '3')
  got = source.arrays('test')
  want = np.floor(LEVELS.astype(np.float64) / 257 + 0.5).astype(np.uint8)
  pairs = zip(got.image, got.labels, strict=True)
  seen = {image.tobytes(): label for image, label in pairs}
  for i in range(COUNT):
    assert seen[want[i].repeat(3, -1).tobytes()] == i % 4


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('several', r"several has numbers in 'label'; name .* several\?label=KEY "
     r'\(classes: kind, unsaid; whole .* 0 to K-1: label, year\)$'),
    ('several?label=note', r"several has no classes in 'note'; name the"),
    ('several?label=none', r"several has no classes in 'none'; name the"),
    ('several?label=year', r'the label 1990 of 1 training images should be 0'),
    ('several?label=unsaid', r', train: 3 of 8 labels are no class from 0 to '
     r'2: -1 \(3 times\); leave these images out'),
    ('several?label=kind&image=note', r"no images 'note'; .* \(it has deep, "),
    ('several?labels=kind', r"'labels=kind' names no feature; give several"),
    ('severa?label=kind', "unknown data set 'severa'"),
  ],
)  # fmt: skip
def test_what_cannot_be_learnt_is_refused_in_one_line(home, name, message):
  with pytest.raises(errors.UsageError, match=message) as caught:
    opened(name, home)
  assert '\n' not in str(caught.value)


def test_labels_of_a_large_set_are_checked_as_its_images_are_read(
  home, monkeypatch
):
  monkeypatch.setattr(prepared, '_SMALL', 0)
  source = opened('several?label=unsaid', home)
  images = source.split('train')
  right = []
  for i in range(COUNT):
    try:
      right.append(images.read(i)[1])
    except errors.UsageError:
      continue
  assert sorted(right) == sorted(i % 3 for i in range(3, COUNT))
  with pytest.raises(errors.UsageError, match='no class from 0 to 2: -1'):
    _ = images.labels


def test_pixels_of_floats_are_refused():
  depth = F.FeaturesDict({'depth': F.Image(shape=(6, 6, 1), dtype=np.float32)})
  with pytest.raises(errors.UsageError, match="'depth' has float32 pixels"):
    prepared._image('x', depth, 'depth')
