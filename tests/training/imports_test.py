"""What a run names by an import path is imported only where that is allowed."""

import pytest

from kd_jax import errors
from kd_jax.config import schema
from kd_jax.training import imports, teacher_path


@pytest.mark.parametrize(
  ('key', 'name'),
  [
    ('student.name', 'nets:Net'),
    ('method', 'os:system'),
    ('data.name', 'sets:birds'),
    ('data.name', 'sets:birds?label=kind'),
  ],
)
def test_an_import_path_is_refused_with_its_module_and_the_cure(key, name):
  with pytest.raises(errors.ArgumentError, match='allow_imports=False') as said:
    imports.check({key: name}, False, '/runs/theirs')
  for word in ('/runs/theirs', key, repr(name.partition(':')[0])):
    assert word in str(said.value)
  imports.check({key: name}, True, '/runs/theirs')
  imports.check({key: name}, [name], '/runs/theirs')
  with pytest.raises(errors.ArgumentError):
    imports.check({key: name}, [f'{name}2'], '/runs/theirs')


@pytest.mark.parametrize(
  ('key', 'name'),
  [
    ('student.name', 'resnet8'),
    ('method', 'kd'),
    ('data.name', 'folder:/birds'),
    ('data.name', 'npz:/birds.npz'),
    ('data.name', 'birds?label=a:b'),
  ],
)
def test_names_that_are_no_import_paths_need_no_permission(key, name):
  imports.check({key: name}, False, '/runs/theirs')


def test_a_run_may_import_what_its_own_configuration_names():
  config = schema.default()
  config.teacher.name, config.teacher.path = 'nets:Net', '/runs/theirs'
  allowed = teacher_path.allowed(config, '/runs/theirs')
  imports.check({'student.name': 'nets:Net'}, allowed, '/runs/theirs')
  with pytest.raises(errors.ArgumentError):
    imports.check({'student.name': 'other:Net'}, allowed, '/runs/theirs')


def test_a_teacher_that_was_trained_for_the_run_may_be_imported():
  config = schema.default()
  assert teacher_path.allowed(config, '/cache/networks/teacher') is True
  config.teacher.path = '/runs/theirs'
  assert teacher_path.allowed(config, '/runs/theirs') is not True
  config.teacher.allow_imports = True
  assert teacher_path.allowed(config, '/runs/theirs') is True
