"""Images of several shapes are evaluated at their own, each once."""

import io

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from kd_jax import data, errors
from kd_jax.data import decode, masks, shaped, source
from kd_jax.data.sets import digits
from kd_jax.distill import evaluation
from kd_jax.features import tap
from kd_jax.runtime import sharding
from tests.data import voc_test

SHORT, CLASSES = 12, 21
# Height and width: two images of the second, three of the third shape. At the
# short side of 12 pixels the last two have one shape.
SHAPES = [(20, 30), (33, 24), (16, 16), (16, 16), (24, 24), (33, 24)]
RNG = np.random.default_rng(0)
WEIGHTS, MEANS = RNG.normal(size=(2, 3, CLASSES)).astype(np.float32)


class Pixels(nn.Module):
  """Logits that see the pixel and, as a DeepLab, the mean of its image."""

  task = 'segmentation'

  @nn.compact
  def __call__(self, images, *, train):
    mean = images.mean(axis=(1, 2), keepdims=True)
    logits = images @ WEIGHTS + mean @ MEANS
    return tap(self, 'logits', logits.astype(jnp.float32))


def image_and_mask(i):
  """Smooth colours, and boxes of classes with some void."""
  height, width = SHAPES[i]
  rng = np.random.default_rng(i)
  coarse = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
  image = Image.fromarray(coarse).resize((width, height), 2)
  mask = rng.choice([0, 1, 5, 20, 255], (3, 3)).astype(np.uint8)
  return np.asarray(image), np.kron(mask, np.ones((16, 16), np.uint8))[
    :height, :width
  ]


@pytest.fixture(scope='module')
def opened(tmp_path_factory):
  """VOC's layout, whose val has these images."""
  root = tmp_path_factory.mktemp('voc')
  base = root / 'VOCdevkit/VOC2012'
  names = [f'2007_{i}' for i in range(len(SHAPES))]
  for i, name in enumerate((*names, 'train')):
    image, mask = image_and_mask(i % len(SHAPES))
    content = io.BytesIO()
    Image.fromarray(image).save(content, 'PNG')  # loses nothing
    path = base / f'JPEGImages/{name}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())
    voc_test.save_mask(base / f'SegmentationClass/{name}.png', mask)
  voc_test.write_list(base / 'ImageSets/Segmentation/train.txt', ['train'])
  voc_test.write_list(base / 'ImageSets/Segmentation/val.txt', names)
  return data.open_source.__wrapped__(f'voc:{root}', image_size=SHORT)


def along(x, axis, length):
  """x, of which an axis is interpolated linearly to another length."""
  at = np.linspace(0, x.shape[axis] - 1, length)
  return np.apply_along_axis(
    lambda line: np.interp(at, np.arange(len(line)), line), axis, x
  )


def plain(info, protocol):
  """The confusion matrix by NumPy and Pillow alone."""
  matrix = np.zeros((CLASSES, CLASSES), int)
  for i in range(len(SHAPES)):
    image, mask = map(Image.fromarray, image_and_mask(i))
    width, height = image.size
    factor = SHORT / min(width, height)
    size = (
      (SHORT, int(height * factor))
      if width <= height
      else (int(width * factor), SHORT)
    )
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR)) / 255
    x = (pixels - info.mean) / info.std
    logits = x @ WEIGHTS + x.mean((0, 1)) @ MEANS
    if protocol == 'paper':
      mask = mask.resize(size, Image.Resampling.NEAREST)
    else:
      logits = along(along(logits, 0, height), 1, width)
    label, predicted = np.asarray(mask), logits.argmax(-1)
    real = label != 255
    np.add.at(matrix, (label[real], predicted[real]), 1)
  return matrix


@pytest.mark.parametrize(
  ('protocol', 'devices'), [('paper', 1), ('paper', 4), ('original', 4)]
)
def test_the_counts_are_those_of_numpy_and_pillow(opened, protocol, devices):
  mesh = sharding.make_mesh(devices)
  images, info = opened.split('test'), opened.info
  split = shaped.Shaped(images, info, mesh, protocol, workers=0)
  counts = evaluation.make(evaluation.alone(Pixels()), split, mesh)
  batches = [
    counts({'student': {}, 'method': {}}, {'student': {}, 'method': {}}, {},
           split.arrays, feed)['student']['sums']
    for feed in split.eval_feeds(4)
  ]  # fmt: skip
  total = evaluation.total(batches)
  np.testing.assert_array_equal(total['confusion'], plain(info, protocol))
  assert total['images'] == len(SHAPES) == split.size
  # At 12 pixels the squares of 16 and of 24 have one shape.
  assert len(batches) == (3 if protocol == 'paper' else 4)


def test_no_image_is_decoded_to_know_its_shape(opened, monkeypatch):
  monkeypatch.setattr(decode, 'read', None)
  part = source.Subset(
    masks.Checked(opened.split('test'), CLASSES, 'x'), np.array([1, 0])
  )
  assert [source.sides(part, i) for i in range(2)] == [SHAPES[1], SHAPES[0]]


def test_without_a_header_the_image_is_decoded(opened):
  class OneByOne:
    labels = np.zeros((6, 0))

    def __len__(self):
      return 6

    def read(self, index):
      return opened.split('test').read(index)

  assert source.sides(OneByOne(), 1) == SHAPES[1]


def test_a_file_that_is_no_image_is_named(tmp_path):
  (tmp_path / 'a.jpg').write_text('no image')
  with pytest.raises(errors.UsageError, match=r'unreadable image .*a\.jpg'):
    decode.sides(tmp_path / 'a.jpg')


@pytest.mark.drill
def test_workers_give_the_same_batches(opened):
  mesh, found = sharding.make_mesh(1), []
  for workers in (0, 1):
    split = shaped.Shaped(
      opened.split('test'), opened.info, mesh, 'paper', workers=workers
    )
    feeds = split.eval_feeds(2)
    found.append(list(feeds))
    if hasattr(feeds, 'close'):
      feeds.close()
  for ours, theirs in zip(*found, strict=True):
    for name in ('image', 'label', 'index', 'mask'):
      np.testing.assert_array_equal(ours[name], theirs[name])
  seen = [i for x in found[0] for i in x['index'][x['mask'] > 0]]
  assert sorted(seen) == list(range(len(SHAPES)))


def test_other_images_are_refused_in_one_line(opened):
  arrays = source.Arrays(
    np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 8), np.uint8)
  )
  for task, images, message in (
    ('classification', digits.read('test'), 'the task is classification'),
    ('detection', None, 'the task is detection'),
    ('segmentation', arrays, 'these have one'),
  ):
    with pytest.raises(errors.ArgumentError, match=message):
      shaped.check('paper', task, images)
    shaped.check('square', task, images)
  shaped.check('paper', 'segmentation', opened.split('test'))
  with pytest.raises(errors.UsageError, match="eval_protocol 'papr'"):
    shaped.check('papr', 'segmentation')
  with pytest.raises(errors.UsageError, match='170x10 pixels is more than 16'):
    shaped.scaled_sides((10, 170), 12)
