"""Every recipe that is shipped."""

import re

import numpy as np
import pytest

from tests.cli import train_test
from tests.config import build_all

METHODS = sorted(p.stem for p in (train_test.ROOT / 'configs').glob('*.py'))
# Tracing all pairs of a table for all methods takes minutes: a test takes the
# pair with four stages that is traced fastest, one recipe of networks that
# differ in depth and width alone, and leaves the slowest networks out. The
# command `python -m tests.config.build_all` builds all of them.
OF_A_TABLE = 'vgg13_vgg8'
SLOW = (
  'pyramidnet200', 'densenet40_12', 'googlenet', 'resnet56', 'resnet110',
  'resnet152', 'deeplab_resnet101',
)  # fmt: skip


def family(network):
  """The network's name up to its depth, such as 'resnet' of resnet32x4."""
  return re.match('[a-z]*', network.name)[0]


@pytest.mark.parametrize('name', METHODS)
def test_the_first_recipe_of_every_configuration_builds(name):
  recipe = next(iter(train_test.configuration(name).RECIPES))
  build_all.check(build_all.config_of(f'{name}:{recipe}'))


@pytest.mark.drill
@pytest.mark.parametrize('name', METHODS)
def test_the_recipes_of_every_configuration_build(name):
  module = train_test.configuration(name)
  listed = [n for n, f in module.RECIPES.items() if f.__name__ == 'of_pair']
  built = []
  for recipe in module.RECIPES:
    config = module.get_config(recipe)
    assert config.recipe == recipe
    if recipe in listed and OF_A_TABLE not in recipe:
      continue
    if {config.teacher.name, config.student.name} & {*SLOW}:
      continue
    # Tracing takes seconds: once for families and a method's arguments.
    is_large = build_all.facts(config)[1] > 64
    key = [is_large, str(config.method_args), str(config.phases)]
    key += [*config.weights]
    key += [family(config.student), family(config.teacher)]
    if key in built:
      continue
    built.append(key)
    build_all.check(config)


# The smallest recipe of each method whose recipes are new kinds of networks.
@pytest.mark.drill
@pytest.mark.parametrize(
  'name',
  [
    'ofd:cifar100_wrn_28_4_wrn_16_2',
    'tf_fd:cifar100_vgg8',
    'simkd:cifar100_r32x4_vgg8',
  ],
)
def test_two_steps_on_random_images_are_finite(name):
  terms = build_all.two_steps(build_all.config_of(name))
  assert np.isfinite([[*step.values()] for step in terms]).all()
