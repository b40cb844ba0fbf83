"""An augmentation goes with the method, the task and the teacher, or not."""

import jax
import numpy as np
import optax
import pytest

from kd_jax import config as config_lib
from kd_jax import errors, tasks
from kd_jax.cli import configured
from kd_jax.config import roles
from kd_jax.data import augment, source
from kd_jax.distill import augmented, build, figures, step
from kd_jax.features import PLAIN
from kd_jax.methods import registry
from tests import tiny


def config_of(method='kd', **data):
  config = config_lib.load('kd:digits')
  with config.unlocked():
    config.method = method
    config.data.update(data)
  return config


def refusal(config, method=None, task='classification'):
  made = method or tiny.method(config.method)
  with pytest.raises(errors.UsageError) as error:
    augmented.check(config, made, tasks.find(task))
  assert '\n' not in str(error.value)
  return str(error.value)


def test_a_method_that_needs_the_class_of_an_image_refuses_mixtures():
  needing = {
    name
    for name in registry.names()
    if registry.method_class(name).needs_class is True
  }
  assert needing == {'crd', 'dkd'}
  for name in sorted(needing):
    assert f'method {name} needs' in refusal(config_of(name, mixup=0.2))
  augmented.check(
    config_of('dkd', label_smoothing=0.1), tiny.method('dkd'), None
  )
  guided = tiny.method('fpd', guided=True)
  assert 'needs the class' in refusal(config_of('fpd', cutmix=1.0), guided)
  augmented.check(config_of('fpd', cutmix=1.0), tiny.method('fpd'), None)


@pytest.mark.parametrize(
  'key', ['mixup', 'cutmix', 'label_smoothing', 'erasing']
)
def test_mixing_is_for_one_label_an_image(key):
  found = refusal(config_of(**{key: 0.1}), task='segmentation')
  assert found.startswith(f'config.data.{key}=0.1 is for one label an image')


def test_a_teacher_that_is_trained_is_augmented_by_its_own_recipe():
  overrides = ['--config.teacher.recipe.data.mixup=0.8',
               '--config.teacher.recipe.data.policy=randaugment',
               '--config.data.cutmix=1.0']  # fmt: skip
  config = configured.load('kd:digits', overrides)
  data = config_lib.of_teacher(config).data
  assert (data.mixup, data.policy, data.cutmix) == (0.8, 'randaugment', 0.0)
  others = ['--config.teacher.recipe.data.mixup=x']
  with pytest.raises(errors.UsageError, match=r'recipe\.data\.mixup=x'):
    configured.load('kd:digits', others)
  config.teacher.recipe.data.mixup = -1.0
  with pytest.raises(
    errors.UsageError, match=r'^config\.teacher\.recipe\.data'
  ):
    build.check_recipe(config, config_lib.of_teacher(config))


def test_a_recipe_without_augmentation_identifies_as_before_it_had_keys():
  config = config_lib.load('kd:digits')
  values = config_lib.determining(config_lib.plain(config))
  assert set(values['teacher']['recipe']) == {
    'seed', 'epochs', 'batch_size', 'optimizer'
  }  # fmt: skip
  config.teacher.recipe.data.erasing = 0.25
  values = config_lib.determining(config_lib.plain(config))
  assert values['teacher']['recipe']['data'] == {'erasing': 0.25}


def test_a_named_teachers_recipe_has_the_keys_of_augmentation():
  config = config_lib.load('kd:digits_two_teachers')
  recipes = [group.recipe for group in config.teachers.values()]
  assert recipes
  for recipe in recipes:
    assert recipe.data.mixup == 0.0


def test_a_teacher_sees_plain_images_only_beside_mixtures():
  config = config_of()
  config.teacher.sees = 'plain'
  assert 'beside mixed images' in refusal(config)
  config.data.mixup = 0.2
  augmented.check(config, tiny.method('kd'), None)


def test_named_teachers_see_what_is_said_once_for_all_of_them():
  config = config_lib.load('kd:digits_two_teachers')
  config.teacher.sees, config.data.mixup = 'plain', 0.2
  method = tiny.method('kd', teachers=tuple(config.method_args.teachers))
  augmented.check(config, method, None)
  assert augmented.mixed(config, 10).keeps_plain
  for name in config.teachers:
    assert roles.with_teacher(config, name).teacher.sees == 'plain'


def test_cached_logits_are_of_plain_images():
  config = config_of(mixup=0.2)
  config.teacher.cache_logits = True
  assert "teacher.sees='plain'" in refusal(config)
  config.teacher.sees = 'plain'
  augmented.check(config, tiny.method('kd'), None)


def test_refusals_come_before_data(monkeypatch):
  monkeypatch.setattr(build, 'open_source', lambda config: pytest.fail('read'))
  config = config_of('dkd', mixup=0.2)
  with config.unlocked():
    config.weights = {'ce': 1.0, 'kd': 0.0, 'dkd': 1.0}
  with pytest.raises(errors.UsageError, match='needs the class of each image'):
    build.build(config)


@pytest.mark.parametrize(
  ('path', 'value'),
  [
    ('data.mixup', -0.1),
    ('data.cutmix', float('nan')),
    ('data.mix_prob', 1.5),
    ('data.mix_switch', -1),
    ('data.label_smoothing', 1.0),
    ('data.erasing', 1.1),
    ('data.policy_level', 31),
    ('data.policy_ops', 0),
    ('data.color_jitter', (0.4, -0.1, 0.4, 0.1)),
    ('ema', 1.0),
    ('ema', -0.5),
  ],
)
def test_a_number_outside_its_domain_is_refused(path, value):
  config = config_of()
  with config.ignore_type():
    config.update_from_flattened_dict({path: value})
  with pytest.raises(errors.UsageError, match=f'config.{path}='):
    config_lib.check_values(config)


def test_the_teacher_sees_the_plain_images_and_the_student_the_mixed():
  exp = tiny.experiment(
    tiny.method('kd'), optax.identity(), teacher=tiny.Plain()
  )
  network = exp.teachers['teacher']
  frozen = {'teacher': tiny.variables(network)}
  batch = tiny.batch()
  mixed = batch | {'image': batch['image'][::-1], PLAIN: batch['image']}
  apply = jax.jit(
    lambda b: step.teacher_features(exp, frozen, b)['teacher']['logits']
  )
  np.testing.assert_array_equal(apply(mixed), apply(batch))


def test_the_training_accuracy_is_of_the_label_with_the_greater_share():
  method = tiny.method('ce')
  logits = np.eye(tiny.CLASSES, dtype=np.float32)[[1, 2, 3, 4]]
  share = np.zeros((4, tiny.CLASSES), np.float32)
  share[range(4), [1, 2, 5, 6]], share[range(4), [0, 0, 3, 4]] = 0.6, 0.4
  feats = {'student': {'logits': logits}}
  found = figures.headline(method, {}, feats, {'label': share})
  assert found == {'top1': 50.0}


def test_an_unknown_policy_is_refused_with_those_that_are_there():
  config = config_of(policy='randaugmnet')
  with pytest.raises(errors.UsageError, match="did you mean 'randaugment'"):
    config_lib.check_values(config)


@pytest.mark.parametrize('jitter', [(0.4, 0.4, 0.4), (0.4, 0.4, 0.4, 0.6)])
def test_a_jitter_has_four_numbers_and_a_hue_up_to_a_half(jitter):
  config = config_of()
  with config.ignore_type():
    config.data.color_jitter = jitter
  assert 'give four numbers' in refusal(config)


@pytest.mark.parametrize(
  ('key', 'value'),
  [
    ('policy', 'trivialaugment'),
    ('color_jitter', (0.1, 0.1, 0.1, 0.1)),
    ('erasing', 0.25),
  ],
)
def test_what_workers_do_keeps_the_training_split_off_the_devices(key, value):
  info = source.Info('x', ('a',), 8, 9, 9, (0.5,) * 3, (0.2,) * 3)
  config = config_of()
  assert augmented.resident(config, info, 'train')
  assert augmented.varied(config, augment.CropFlip(), info) is None
  with config.ignore_type():
    config.data[key] = value
  assert not augmented.resident(config, info, 'train')
  assert augmented.resident(config, info, 'test')
  how = augmented.varied(config, augment.CropFlip(), info)
  assert value in how
  config.teacher.cache_logits = True
  assert f'config.data.{key}={value!r}' in refusal(config)
