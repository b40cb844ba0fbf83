"""Every recipe that is shipped."""

import pytest

from kd_jax import data
from kd_jax.distill import build
from tests.cli import train_test


@pytest.mark.parametrize(
  'name',
  sorted(path.stem for path in (train_test.ROOT / 'configs').glob('*.py')),
)
def test_every_recipe_of_every_configuration_builds(name):
  # What is not there in a test, with its classes and image size.
  absent = {'imagenet2012': (1000, 224), 'folder:photos': (4, 224)}
  module = train_test.configuration(name)
  built = set()
  for recipe in module.RECIPES:
    config = module.get_config(recipe)
    assert config.recipe == recipe
    # Tracing takes seconds: once for networks and a method's arguments.
    parts = ('data', 'student', 'teacher', 'method_args', 'phases')
    key = ' '.join(str(config[part]) for part in parts) + str([*config.weights])
    if key in built:
      continue
    built.add(key)
    name = config.data.name
    if known := data.facts(name) or absent.get(name):
      build.check(config, *known)
    else:
      assert build.build(config).total_steps > 0
