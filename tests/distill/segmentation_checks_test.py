"""What does not fit the task of the data is one line, before all compiling."""

import re

import numpy as np
import pytest

from kd_jax import data, errors, tasks
from kd_jax.data import source
from kd_jax.distill import build, checks
from tests import few_scenes
from tests.cli import train_test


def config_of(name='kd', recipe='scenes_segmentation'):
  """A recipe of scenes, with few of them and small networks."""
  config = train_test.configuration(name).get_config(recipe)
  return few_scenes.smaller(config)


def refused(config, message):
  with pytest.raises(errors.UsageError, match=re.escape(message)) as caught:
    build.build(config)
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('path', 'value', 'message'),
  [
    ('student.name', 'resnet8', "config.student.name='resnet8' is a network "),
    ('teacher.name', 'resnet8', "config.teacher.name='resnet8' is a network "),
    ('data.name', 'digits', 'is a network for segmentation, and config.data.'),
    ('data.name', 'cifar10', 'is a network for segmentation, and config.data.'),
    ('data.augment', 'random_resized_crop', 'moves no masks or boxes, and'),
    ('teacher.cache_logits', True, 'one vector of logits an image, and'),
    ('batch_size', 1, 'a batch of 1 with bn_group_size=0'),
    ('bn_group_size', 1, 'a batch of 8 with bn_group_size=1'),
    ('accumulate_steps', 8, 'a batch of 1 with bn_group_size=0'),
  ],
)
def test_what_does_not_fit_segmentation_is_one_line(path, value, message):
  config = config_of()
  *groups, last = path.split('.')
  group = config
  for name in groups:
    group = group[name]
  if last == 'name' and value.startswith('resnet'):
    group.args = {}
  with config.unlocked():
    group[last] = value
  refused(config, message)


def test_guided_needs_whole_images():
  config = config_of('fpd')
  config.method_args.guided = True
  refused(config, 'config.method_args.guided=True asks whether the teacher is')


def test_several_teachers_need_whole_images():
  config = config_of('kd')
  config.method_args.teachers = ('a', 'b')
  with config.unlocked():
    config.teachers.b = {'name': config.teacher.name}
  refused(config, 'several teachers are for one vector of logits an image')


def test_only_images_of_several_shapes_have_a_protocol_for_shapes():
  config = config_of()
  config.data.eval_protocol = 'paper'
  for task in ('classification', 'detection'):
    with pytest.raises(errors.UsageError, match=f'and the task is {task}: '):
      checks.check_method(config, tasks.find(task))
  checks.check_method(config, tasks.find('segmentation'))
  message = r"^config\.data\.eval_protocol='paper': it is for images of several"
  with pytest.raises(errors.UsageError, match=message):
    checks.check_splits(config, few_scenes.opened())


def test_mirrored_borders_have_no_boxes():
  config = config_of()
  config.data.crop_padding, config.data.padding_mode = 2, 'reflect'
  checks.check_method(config, tasks.find('segmentation'))
  with pytest.raises(errors.UsageError, match="padding_mode='reflect'"):
    checks.check_method(config, tasks.find('detection'))
  config.data.crop_padding = 0
  checks.check_method(config, tasks.find('detection'))


class OneByOne:
  """The images of a split that are read one by one."""

  def __init__(self, arrays):
    self.arrays, self.labels = arrays, np.zeros(len(arrays), np.int32)

  def __len__(self):
    return len(self.labels)

  def read(self, index):
    return self.arrays.read(index)


CHANGED = {}


def changed(image_size=0):
  """A data set of the user's own, with mistakes."""
  del image_size
  return source.Source(CHANGED['info'], CHANGED['part'])


def spoilt(how):
  """The masks of a split, with a mistake; of the test split without one."""

  def part(split):
    given = few_scenes.part(split)
    if split == 'test':
      return given
    mask = given.labels.copy()
    if how == 'class':
      mask[0, 3, 4] = 11
    elif how == 'size':
      mask = mask[:, :, 1:]
    elif how == 'kind':
      mask = mask.astype(np.float32)
    elif how == 'labels':
      mask = mask[:, 0, 0]
    return source.Arrays(given.image, mask)

  return part


@pytest.mark.parametrize('is_whole', [True, False])
@pytest.mark.parametrize(
  ('how', 'message'),
  [
    ('class', 'labels are no class from 0 to 10: 11 (1 times); correct'),
    ('size', '24, 23] of uint8 for an image ['),
    ('kind', '24, 24] of float32 for an image ['),
    ('labels', ''),
    ('', ''),
  ],
)
def test_a_mask_that_does_not_fit_is_refused(how, message, is_whole):
  part = spoilt(how)
  CHANGED['info'] = few_scenes.info()
  CHANGED['part'] = part if is_whole else lambda split: OneByOne(part(split))
  data.open_source.cache_clear()
  opened = data.open_source(f'{__name__}:changed')
  if not how:
    assert len(opened.split('train')) == few_scenes.COUNTS['train']
    np.testing.assert_array_equal(
      opened.arrays('train').labels, few_scenes.part('train').labels
    )
    return
  if how == 'labels':
    message = '[32] of uint8 for' if is_whole else 'image 0: no mask: `read` '
  with pytest.raises(errors.UsageError, match=re.escape(message)) as caught:
    opened.split('train')
  assert f'{__name__}:changed, train' in str(caught.value)
  assert '\n' not in str(caught.value)


def test_a_mask_that_is_read_later_is_checked_too():
  good = few_scenes.part('train')
  mask = good.labels.copy()
  mask[5, 0, 0] = 254
  CHANGED['info'] = few_scenes.info()
  CHANGED['part'] = lambda _: OneByOne(source.Arrays(good.image, mask))
  data.open_source.cache_clear()
  images = data.open_source(f'{__name__}:changed').split('train')
  images.read(4)
  with pytest.raises(errors.UsageError, match=', train, image 5: 1 of '):
    images.read(5)


def test_more_classes_than_a_mask_names_are_refused():
  names = tuple(map(str, range(256)))
  CHANGED['info'] = few_scenes.info(class_names=names)
  CHANGED['part'] = few_scenes.part
  data.open_source.cache_clear()
  opened = data.open_source(f'{__name__}:changed')
  with pytest.raises(errors.UsageError, match='256 classes, and masks name'):
    opened.split('train')
