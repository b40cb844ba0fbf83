"""What a configuration becomes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import errors
from kd_jax.distill import build, step
from tests.cli import train_test


@pytest.mark.parametrize(('name', 'adapters'), [('ofd', True), ('kd', False)])
def test_bn_group_size_reaches_networks_and_adapters(name, adapters):
  config = train_test.configuration(name).get_config('digits')
  config.bn_group_size = 8
  (phase,) = build.phases_of(config, {'num_classes': 10}, 1)
  networks = {**phase.exp.students, **phase.exp.teachers}
  assert {net.bn_group_size for net in networks.values()} == {8}
  assert getattr(phase.exp.method, 'bn_group_size', None) == (
    8 if adapters else None
  )


def test_a_teacher_on_batch_statistics_may_have_groups():
  config = train_test.configuration('ofd').get_config('digits')
  config.bn_group_size = 8
  parts = build.build(config)
  assert parts.exp.teachers['teacher'].batch_norm == 'batch'
  assert parts.exp.teachers['teacher'].bn_group_size == 8
  assert parts.deployed.params > 0


@pytest.mark.parametrize(
  ('dtype', 'teachers'), [('float32', 'bfloat16'), ('bfloat16', 'float32')]
)
def test_a_teacher_may_compute_in_another_dtype(dtype, teachers):
  config = train_test.configuration('pics').get_config('digits')
  config.dtype, config.teacher.dtype = dtype, teachers
  (phase,) = build.phases_of(config, {'num_classes': 10}, 1)
  networks = phase.exp.teachers['teacher'], phase.exp.students['student']
  found = [each.dtype for each in (*networks, phase.exp.method)]
  assert found == [build.DTYPES[name] for name in (teachers, dtype, dtype)]


def facts(mean, std):
  return {'num_classes': 10, 'mean': mean, 'std': std}


def test_a_teacher_of_another_normalisation_sees_its_own():
  config = train_test.configuration('kd').get_config('digits')
  config.student.args.widths = config.teacher.args.widths = (4, 4, 8, 16)
  config.teacher.name = 'resnet8'
  ours = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
  theirs = ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
  config.teacher.mean, config.teacher.std = theirs
  (phase,) = build.phases_of(config, facts(*ours), 1)
  network = phase.exp.teachers['teacher']
  pixels = np.random.default_rng(0).uniform(size=(2, 8, 8, 3))
  by_ours, by_theirs = (
    jnp.asarray((pixels - mean) / std, jnp.float32)
    for mean, std in (
      (np.reshape(x, (1, 1, 1, 3)) for x in n) for n in (ours, theirs)
    )
  )
  variables = network.init(jax.random.key(0), by_ours, train=False)
  found = step.teacher_features(
    phase.exp, {'teacher': variables}, {'image': by_ours}
  )
  want, _ = network.apply(
    variables, by_theirs, train=False, mutable=['intermediates']
  )
  np.testing.assert_allclose(found['teacher']['logits'], want, atol=1e-5)


def test_a_teacher_of_the_same_normalisation_sees_the_images_as_they_are():
  config = train_test.configuration('kd').get_config('digits')
  ours = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
  config.teacher.mean, config.teacher.std = ours
  (phase,) = build.phases_of(config, facts(*ours), 1)
  assert phase.exp.inputs == {}


@pytest.mark.parametrize('key', ['mean', 'std'])
def test_a_wrong_normalisation_is_refused(key):
  config = train_test.configuration('kd').get_config('digits')
  config.teacher[key] = (0.0, 0.0, 0.0) if key == 'std' else (0.5, 0.5)
  with pytest.raises(errors.UsageError, match=f'config.teacher.{key}='):
    build.phases_of(config, {'num_classes': 10}, 1)
