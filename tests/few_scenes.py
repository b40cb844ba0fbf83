"""A data set of a few small scenes with masks, as a user would bring it."""

import functools
import hashlib

from kd_jax.data import source
from kd_jax.data.sets import scenes

SIZE = 24  # pixels of the middle of each scene
COUNTS = {'train': 32, 'test': 10}


@functools.cache
def part(split):
  """The images and masks of a split."""
  found = scenes.generate(split, COUNTS[split])
  middle = slice(12, 12 + SIZE)
  cut = (slice(None), middle, middle)
  return source.Arrays(found.image[cut], found.mask[cut])


def info(**changes):
  """The facts, some of them changed."""
  return scenes.INFOS['segmentation']._replace(
    name='tests.few_scenes:opened',
    image_size=SIZE,
    num_train=COUNTS['train'],
    num_test=COUNTS['test'],
    fingerprint=hashlib.sha256(part('train').labels.tobytes()).hexdigest(),
    **changes,
  )


def opened(image_size=0):
  """Returns the data set."""
  assert image_size in (0, SIZE)
  return source.Source(info(), part)


class Uneven:
  """A split whose images have three widths, of which one is the height."""

  def __init__(self, arrays):
    self.arrays, self.labels = arrays, arrays.labels

  def __len__(self):
    return len(self.arrays)

  def read(self, index):
    image, target = self.arrays.read(index)
    width = SIZE - 3 * (index % 3)
    return image[:, :width], {'label': target['label'][:, :width]}


def opened_uneven(image_size=0):
  """Returns the data set, whose test images have several shapes."""
  facts = opened(image_size).info._replace(
    name='tests.few_scenes:opened_uneven'
  )
  splits = {'train': part('train'), 'test': Uneven(part('test'))}
  return source.Source(facts, splits.__getitem__)


@functools.cache
def boxed(split):
  """The whole images of a split, with their objects."""
  whole = scenes.open_source('detection').split(split)
  chosen = slice(0, COUNTS[split])
  others = {name: rows[chosen] for name, rows in whole.others.items()}
  return source.Arrays(whole.image[chosen], whole.labels[chosen], others)


def opened_boxed(image_size=0):
  """Returns the data set with boxes."""
  assert image_size in (0, scenes.SIDE)
  facts = scenes.INFOS['detection']._replace(
    name='tests.few_scenes:opened_boxed',
    num_train=COUNTS['train'],
    num_test=COUNTS['test'],
    fingerprint=hashlib.sha256(boxed('train').labels.tobytes()).hexdigest(),
  )
  return source.Source(facts, boxed)


WIDTHS = (4, 4, 4, 8, 8)
SMALL = {
  'stage_sizes': (1, 1, 1, 1), 'widths': WIDTHS, 'aspp_width': 4,
  'low_width': 4, 'decoder_width': 4, 'dilations': (1, 2),
}  # fmt: skip


def smaller(config):
  """Changes a recipe of scenes to these, with the smallest networks."""
  config.data.name = 'tests.few_scenes:opened'
  config.mesh.data, config.batch_size, config.eval_batch_size = 1, 8, 4
  for network in (config.student, config.teacher):
    if network.name:
      network.name = 'deeplab_resnet10_small'
      with network.unlocked():
        network.args.update(SMALL)
  config.teacher.recipe.epochs, config.teacher.recipe.batch_size = 1, 8
  config.teacher.expected_top1 = 0.0
  config.baseline, config.epochs = 'off', 2
  return config
