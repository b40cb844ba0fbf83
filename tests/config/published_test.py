"""Every recipe that is not embedded, held against the papers' values."""

import dataclasses

import pytest

from kd_jax import config as config_lib
from kd_jax.config import augmentation
from kd_jax.distill import optim
from kd_jax.methods import registry
from tests.config import build_all, published

RECIPES = [
  name
  for name in build_all.recipes()
  if not name.split(':')[1].startswith(('digits', 'scenes'))
]


def training(config):
  """What trains a network: epochs, batch, rate, milestones, decay, ..."""
  optimizer = config.optimizer
  rate = optimizer.learning_rate
  assert optimizer.momentum == 0.9
  if rate.kind == 'poly':
    drops = ('poly', rate.power, rate.epochs, rate.first)
  elif rate.kind == 'cosine':
    drops = ('cosine', *([rate.floor] if 'floor' in rate else []))
  else:
    assert (rate.kind, rate.factor) == ('step', 0.1)
    drops = tuple(rate.milestones)
  assert optimizer.clip_norm == 0.0
  return (
    config.epochs,
    config.batch_size,
    rate.value,
    drops,
    optimizer.weight_decay,
    optimizer.nesterov,
    tuple(optimizer.reset_momentum_at),
    config.bn_group_size,
  )


def network(group):
  """A network as in the table: 'resnet50:cifar' has that stem (or dropout)."""
  args = group.args.to_dict()
  args.pop('batch_norm', None)
  keys = ('stem', 'dropout', 'drop_path', 'image_size', 'patch')
  kinds = [str(args.pop(key)) for key in keys if key in args]
  assert not args
  return ':'.join((group.name, *kinds))


def plain(value):
  if isinstance(value, list | tuple):
    return tuple(plain(x) for x in value)
  if isinstance(value, dict):
    return {key: plain(x) for key, x in value.items()}
  return value


def weight(value):
  """A weight as in the table."""
  if isinstance(value, int | float):
    return value
  spec = dict(value)
  kind = spec.pop('kind')
  if kind == 'ramp':
    return ('ramp', spec.pop('value'), spec.pop('epochs'), spec.pop('first'))
  assert kind == 'gaussian_ramp'
  return ('gaussian', spec.pop('value'), spec.pop('epochs'))


def rule(fields):
  """An optimizer rule as in the table: name, factor of the rate, decay."""
  rate = fields.get('learning_rate', {'kind': 'scaled', 'factor': 1.0})
  assert rate['kind'] == 'scaled'
  return fields.get('name', 'sgd'), rate['factor'], fields.get('weight_decay')


def found(config):
  """All that the table holds, of a configuration."""
  args = plain(config.method_args.to_dict())
  fields = dataclasses.fields(registry.method_class(config.method))
  default = {f.name: f.default for f in fields}.get('temperature')
  teacher = None
  if config.teacher.name:
    of_teacher = config_lib.of_teacher(config)
    assert of_teacher.optimizer.name == 'sgd'
    teacher = training(of_teacher)
  phases = plain(config.phases.to_dict())
  assert not config.trainable or set(phases) <= {'initialise'}
  data = config.data
  return {
    'data': data.name,
    'optimizer': config.optimizer.name,
    'training': training(config),
    'warmup': config.optimizer.learning_rate.get('warmup_epochs', 0),
    'padding': (data.padding_mode, data.crop_padding),
    'augment': (data.augment, tuple(data.area), data.flip),
    'scale': (tuple(data.scale), data.pad_label),
    'protocol': data.eval_protocol,
    'varied': {
      key.path: config[key.path]
      for key in augmentation.KEYS
      if config[key.path] != key.default
    },
    'image_size': data.image_size,
    'images': data.train_size,
    'mean': tuple(data.mean),
    'std': tuple(data.std),
    'of_teacher': teacher,
    'teacher': network(config.teacher),
    'student': network(config.student),
    'students': {n: network(x) for n, x in config.students.items()},
    'teachers': config.teachers.to_dict(),
    'batch_norm': config.teacher.args.to_dict().get('batch_norm', ''),
    'temperature': args.pop('temperature', default),
    'args': args,
    'weights': {k: weight(v) for k, v in config.weights.to_dict().items()},
    'phase': phases.get('initialise', {}),
    'trainable': tuple(config.trainable),
    'rules': tuple((r[0], rule(dict(r[1]))) for r in config.optimizer.rules),
  }


def expected(row):
  """All that the table holds, of a row."""
  schedule = published.SCHEDULES[row.schedule]
  setting = published.SETTINGS[row.setting]
  of_teacher = (*schedule.teacher, 0)[:8]  # in groups of no size for BatchNorm
  return {
    'data': schedule.data,
    'optimizer': schedule.optimizer,
    'training': (
      schedule.epochs,
      schedule.batch,
      schedule.rate,
      schedule.milestones,
      schedule.decay,
      schedule.nesterov,
      schedule.resets,
      schedule.group,
    ),
    'warmup': schedule.warmup,
    'padding': schedule.padding,
    'augment': (schedule.augment, (0.08, 1.0), True),
    'scale': ((256, 1026), 0),
    'protocol': schedule.protocol,
    'varied': schedule.varied,
    'image_size': schedule.image_size,
    'images': 0,
    'mean': schedule.mean,
    'std': schedule.std,
    'of_teacher': of_teacher if row.teacher else None,
    'teacher': row.teacher,
    'student': row.student,
    'students': row.students,
    'teachers': {},
    'batch_norm': setting.batch_norm,
    'temperature': setting.temperature,
    'args': {**setting.args, **row.args},
    'weights': setting.weights,
    'phase': dict(setting.phase),
    'trainable': setting.trainable,
    'rules': setting.rules,
  }


def test_the_table_has_every_recipe_and_no_other():
  assert set(published.ROWS) == set(RECIPES)


@pytest.mark.parametrize('name', RECIPES)
def test_a_recipe_holds_the_papers_values(name):
  assert found(build_all.config_of(name)) == expected(published.ROWS[name])


def test_every_value_has_a_source_and_a_certainty():
  for entry in (*published.SCHEDULES.values(), *published.SETTINGS.values()):
    assert entry.source
    assert entry.certainty in ('code', 'paper', 'recalled', 'ours')
  used = {(row.schedule, row.setting) for row in published.ROWS.values()}
  assert {schedule for schedule, _ in used} == set(published.SCHEDULES)
  assert {setting for _, setting in used} == set(published.SETTINGS)


CHANGES = {
  'epochs': 241,
  'batch_size': 65,
  'bn_group_size': 1,
  'optimizer.learning_rate.value': 0.03,
  'optimizer.learning_rate.milestones': (1,),
  'optimizer.weight_decay': 3e-4,
  'optimizer.nesterov': None,
  'optimizer.reset_momentum_at': (3,),
  'data.name': 'cifar10_',
  'data.crop_padding': 5,
  'data.padding_mode': 'mirror',
  'data.augment': 'other',
  'data.area': (0.1, 1.0),
  'data.scale': (256, 1024),
  'data.pad_label': 255,
  'data.eval_protocol': 'original',
  'data.mean': (0.0, 0.0, 0.0),
  'data.std': (1.0, 1.0, 1.0),
  'data.image_size': 31,
  'data.train_size': 100,
  'data.mixup': 0.5,
  'student.name': 'other',
  'trainable': ('none',),
}


@pytest.mark.parametrize('name', ['kd:cifar100_r56_r20', 'ffsd:imagenet_r18'])
@pytest.mark.parametrize('path', CHANGES)
def test_another_value_does_not_pass(name, path):
  config = build_all.config_of(name)
  *groups, last = path.split('.')
  group = config
  for key in groups:
    group = group[key]
  value = not group[last] if CHANGES[path] is None else CHANGES[path]
  with group.ignore_type():
    group[last] = value
  assert found(config) != expected(published.ROWS[name])


@pytest.mark.parametrize('setting', published.SETTINGS)
def test_another_weight_does_not_pass(setting):
  rows = published.ROWS.items()
  name = next(name for name, row in rows if row.setting == setting)
  for term in build_all.config_of(name).weights:
    config = build_all.config_of(name)
    with config.weights.ignore_type():
      config.weights[term] = 0.123
    assert found(config) != expected(published.ROWS[name]), term


@pytest.mark.parametrize('recipe', ['digits', 'cifar100_r20', 'imagenet_r18'])
def test_ffsds_decoders_follow_the_configurations_learning_rate(recipe):
  config = build_all.config_of(f'ffsd:{recipe}')
  for times in (1, 2):
    rate = config.optimizer.learning_rate
    (_, changes), *_ = config.optimizer.rules
    fields = optim.of_rule(config.optimizer.to_dict(), dict(changes))
    assert fields['learning_rate'] == {**rate.to_dict(), 'value': times * 1e-3}
    rate.value *= 2
    rate.milestones = (7,)
