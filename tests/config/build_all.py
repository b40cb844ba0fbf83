"""Builds every recipe, and trains two steps of those on small images.

  python -m tests.config.build_all              # build all of them
  python -m tests.config.build_all ofd tfd:cifar100_r20
  python -m tests.config.build_all --steps ofd  # and train two steps of each

It prints a line for each recipe, and ends with 1 if one of them fails. No data
is needed: the images are random. The steps run one operation after the other,
since recipes share most operations, and no recipe its program.
"""

import argparse
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import data, tasks
from kd_jax.distill import build, step
from tests.cli import train_test

# What is not there in a test, with its classes and image size.
ABSENT = {
  'digits': (10, 8),
  'scenes_segmentation': (11, 48),
  'scenes_detection': (10, 48),
  'imagenet2012': (1000, 224),
  'folder:photos': (4, 224),
  'voc:pascal': (21, 513),
  'voc_boxes:pascal': (20, 300),
}
BATCH = 8  # images of the two steps; a recipe's own batch is traced
LARGEST = 96  # pixels of their side, as a larger image costs minutes


def recipes():
  """Returns the names of all recipes, such as 'fpd:digits'."""
  stems = sorted(p.stem for p in (train_test.ROOT / 'configs').glob('*.py'))
  return [
    f'{stem}:{recipe}'
    for stem in stems
    for recipe in train_test.configuration(stem).RECIPES
  ]


def config_of(name):
  """Returns the configuration of a recipe."""
  stem, recipe = name.split(':')
  return train_test.configuration(stem).get_config(recipe)


def facts(config):
  """Returns the number of classes and the image size of a recipe's data."""
  name = config.data.name
  return data.facts(name, config.data.image_size) or ABSENT[name]


def is_embedded(config):
  """Returns whether a recipe's data are always there."""
  return config.data.name.startswith(('digits', 'scenes'))


def check(config):
  """Builds a recipe, without its data where they are not there."""
  if is_embedded(config):
    assert build.build(config).total_steps > 0
  else:
    build.check(config, *facts(config))


def task_of(config):
  """Returns the task of a recipe's data."""
  name = config.data.name
  if name.startswith('voc:'):
    return tasks.find('segmentation')
  if name.startswith('voc_boxes:'):
    return tasks.find('detection')
  dense = name.startswith('scenes_')
  return tasks.find(name.partition('_')[2] if dense else 'classification')


def targets(config, labels, size):
  """Returns the targets of a batch of the two steps, by key."""
  task = task_of(config)
  if task.name == 'classification':
    return {'label': jnp.asarray(labels[: config.batch_size])}
  shapes = task.example(config.batch_size, size)
  found = {key: jnp.zeros(x.shape, x.dtype) for key, x in shapes.items()}
  if 'boxes' in found:
    box = jnp.array([0.2, 0.2, 0.6, 0.6])
    found['boxes'] = jnp.broadcast_to(box, found['boxes'].shape)
  return found


def random_teacher(network, key, image):
  """Returns random variables whose running statistics are those of a batch.

  With a mean of 0 and a variance of 1, the maps of a deep ResNet would grow
  with each block, to 1e8 in a ResNet110.

  Args:
    network: The teacher.
    key: The key of its parameters.
    image: The batch, [N,H,W,3] f32.
  """
  variables = dict(
    jax.jit(network.init, static_argnames='train')(key, image, train=False)
  )
  variables.pop('intermediates', None)
  if 'batch_stats' not in variables:
    return variables
  _, seen = jax.jit(
    lambda v, x: network.apply(
      v, x, train=True, mutable=['batch_stats'], rngs={'dropout': key}
    )
  )(variables, image)
  moved = 0.1  # of the batch's statistics, as PyTorch's BatchNorm
  variables['batch_stats'] = jax.tree.map(
    lambda old, new: jnp.asarray(old + (new - old) / moved),
    variables['batch_stats'],
    seen['batch_stats'],
  )
  return variables


def two_steps(config, size=None):
  """Returns the terms of two steps on random images, in every phase.

  Args:
    config: The configuration; its batch and CRD's negatives are made small.
    size: The height and width of the images; None takes the data set's, or
      96 where they are larger (97 for DeepLabs). An SSD's priors and a
      transformer's positions are for the data set's alone.
  """
  classes, image_size = facts(config)
  has_own_size = config.method == 'deit' or task_of(config).name == 'detection'
  if size is None and has_own_size:
    size = image_size
  size = size or min(image_size, LARGEST + image_size % 2)
  images = 2 * config.bn_group_size or BATCH
  config.batch_size = images
  labels = np.arange(4 * classes, dtype=np.int32) % classes
  if 'negatives' in config.method_args:
    config.method_args.negatives = 16
  known = {'num_classes': classes, 'train_labels': labels}
  known['task'] = task_of(config)
  rng = np.random.default_rng(0)
  found = []
  for phase in build.phases_of(config, known, 10):
    exp = phase.exp
    image = rng.normal(size=(images, size, size, 3)).astype(np.float32)
    batch = {
      'image': jnp.asarray(image),
      **targets(config, labels, size),
      'index': jnp.arange(images, dtype=jnp.int32),
    }
    frozen = {
      name: random_teacher(net, jax.random.key(i), batch['image'])
      for i, (name, net) in enumerate(exp.teachers.items())
    }
    state = jax.jit(lambda f, b, e=exp: step.init(e, jnp.int32(0), f, b))(
      frozen, batch
    )
    update = jax.jit(lambda s, f, b, e=exp: step.train_step(e, 0, s, f, b))
    for _ in range(2):
      state, terms = update(state, frozen, batch)
      found.append({name: float(value) for name, value in terms.items()})
  return found


def main():
  """Builds the recipes that are named; returns the number that failed."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('names', nargs='*', help='a method, or method:recipe')
  parser.add_argument('--steps', action='store_true', help='train two steps')
  args = parser.parse_args()
  wanted = set(args.names)
  failed = 0
  for name in recipes():
    if wanted and not wanted & {name, name.split(':')[0]}:
      continue
    begin = time.monotonic()
    config, what = config_of(name), 'built'
    try:
      check(config)
      if args.steps:
        with jax.disable_jit():
          terms = two_steps(config)
        assert np.isfinite([*terms[-1].values()]).all(), terms
        what = f'trained, {len(terms)} steps'
    except Exception as error:
      failed += 1
      what = f'FAILED: {type(error).__name__}: {error}'
    print(f'{time.monotonic() - begin:6.1f} s  {name}  {what}', flush=True)
  print(f'{failed} failed')
  return failed


if __name__ == '__main__':
  sys.exit(min(main(), 1))
