"""Networks by their names, as the training step has them."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.distill import build, networks, step
from tests.cli import train_test

FACTS = {'num_classes': 10, 'mean': (0.5,) * 3, 'std': (0.25,) * 3}


def config(name, recipe='digits'):
  return train_test.configuration(name).get_config(recipe)


def test_students_that_are_unlike_learn_from_each_other():
  made = config('dml')
  (phase,) = build.phases_of(made, FACTS, 1)
  kinds = {name: type(x).__name__ for name, x in phase.exp.students.items()}
  assert kinds == {'student_0': 'ResNet', 'student_1': 'WideResNet'}
  (traced,) = build.check(made, 10, 8)
  assert traced.deployed.name == 'student_0'
  assert traced.deployed.groups == ('student_0',)
  assert set(traced.state.params) == {'student_0', 'student_1', 'method'}


def test_each_teacher_has_its_own_network_dtype_normalisation_and_size():
  made = config('kd', 'digits_two_teachers')
  made.teachers.wide.dtype = 'bfloat16'
  made.teachers.wide.image_size = 16
  made.teachers.resnet.mean = (0.25,) * 3
  (phase,) = build.phases_of(made, FACTS, 1)
  exp = phase.exp
  assert [x.dtype for x in exp.teachers.values()] == [
    jnp.float32,
    jnp.bfloat16,
  ]
  assert exp.inputs == {'resnet': ([1.0] * 3, [1.0] * 3)}
  assert exp.sizes == {'wide': 16}
  (traced,) = build.check(made, 10, 8)
  shapes = {name: x['stage3'].shape for name, x in traced.features.items()}
  assert shapes == {
    'student': (32, 2, 2, 32),
    'resnet': (32, 2, 2, 64),
    'wide': (32, 4, 4, 128),
  }


class Bare(nn.Module):
  """A network of a user's own that knows nothing of dtypes."""

  num_classes: int

  @nn.compact
  def __call__(self, images, *, train):
    return nn.Dense(self.num_classes)(images.mean(axis=(1, 2)))


def test_a_network_that_lacks_a_field_of_the_configuration_is_named():
  network = config_lib.network('tests.distill.networks_test:Bare')
  for field, value, message in (
    (
      'dtype',
      'bfloat16',
      r'^config\.dtype=bfloat16: the network .*:Bare has no',
    ),
    (
      'bn_group_size',
      4,
      r'^config\.bn_group_size=4: the network .*:Bare has no',
    ),
  ):
    given = {'dtype': 'float32', field: value}
    with pytest.raises(errors.UsageError, match=message):
      networks.make_network(network, 10, **given)


def test_a_wrong_argument_is_named_by_its_key():
  made = config('kd', 'digits_two_teachers')
  made.teachers.wide.args.dept = 10
  where = r'^config\.teachers\.wide\.args\.dept=10: unknown argument of network'
  with pytest.raises(errors.UsageError, match=where):
    build.phases_of(made, FACTS, 1)
  made = config('dml')
  made.students.student_1.args.depth = 17
  with pytest.raises(
    errors.UsageError, match=r'^config\.students\.student_1\.args\.depth=17'
  ):
    build.phases_of(made, FACTS, 1)


@pytest.mark.parametrize('size', [5, 20])
def test_images_are_resized_as_pillow_does_and_then_normalised(size):
  pixels = np.random.default_rng(0).uniform(size=(2, 8, 8, 3))
  pixels = pixels.astype(np.float32)
  exp = step.Experiment(
    {}, {}, None, {}, None,
    inputs={'a': ([2.0, 3.0, 4.0], [0.5, 0.25, 0.125])}, sizes={'a': size},
  )  # fmt: skip
  found = step.seen_by(exp, 'a', jnp.asarray(pixels))
  want = np.empty((2, size, size, 3), np.float32)
  for i, c in np.ndindex(2, 3):
    plane = Image.fromarray(pixels[i, :, :, c])
    want[i, :, :, c] = plane.resize((size, size), Image.Resampling.BILINEAR)
  want = want * (2, 3, 4) + (0.5, 0.25, 0.125)
  np.testing.assert_allclose(found, want, atol=1e-5)
  same = step.seen_by(exp, 'b', pixels)
  assert same is pixels


def test_maps_of_positions_need_the_datas_size():
  made = config('kd', 'scenes_segmentation')
  made.teacher.image_size = 96
  with pytest.raises(
    errors.UsageError, match=r'^config\.teacher\.image_size=96: its outputs'
  ):
    build.check(made, 11, 48, 'segmentation')


def test_a_method_says_which_weights_it_has_by_its_key():
  made = config('kd', 'digits_two_teachers')
  made.method_args.teacher_weights = (1.0,)
  with pytest.raises(
    errors.UsageError, match=r'^config\.method_args\.teacher_weights=\(1\.0,\)'
  ):
    build.phases_of(made, FACTS, 1)


def test_last_taps_are_those_of_the_first_student():
  made = config('ffsd')
  made.students.leader = config_lib.network('wrn_16_1')
  made.method_args = config_lib.ConfigDict()
  method = build.registry.make('ffsd')
  found = networks.last_taps(made, method, 10)
  assert found == {'taps': ('stage1', 'stage2', 'stage3_post')}
