"""How many steps a dispatch has, and how far ahead a teacher runs in it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.distill import build, dispatch, inspect, jitted, optim, step
from kd_jax.features import tap
from kd_jax.models import layers
from kd_jax.runtime import sharding
from tests import tiny


class Net(layers.Network):
  """A network of the library's own base, which is traced fast."""

  @nn.compact
  def __call__(self, images, *, train):
    x = layers.Conv(4, 3, name='conv')(images)
    x = tap(self, 'stage1', nn.relu(self.norm(name='bn')(x, train=train)))
    return self.classify(x)


def experiment(method, teacher):
  args = {'taps': ('stage1',)} if method == 'at' else {}
  return tiny.experiment(
    tiny.method(method, **args),
    tx=optim.transformation('sgd', lambda _: 0.1),
    student=Net(num_classes=tiny.CLASSES),
    teacher=teacher,
  )


@functools.cache
def traced(method, teacher):
  return inspect.trace(experiment(method, teacher), 32, 64)


def setting(method='kd', teacher=None, sizes=(), **changes):
  """One GPU and CIFAR-100: 781 steps of 64 images an epoch."""
  teacher = teacher or Net(num_classes=tiny.CLASSES)
  return dispatch.Setting(
    **{
      'exp': experiment(method, teacher)._replace(sizes=dict(sizes)),
      'traced': lambda: traced(method, teacher),
      'platform': 'gpu',
      'devices': 1,
      'image_size': 32,
      'batch_size': 64,
      'steps_per_epoch': 781,
      **changes,
    }
  )


@pytest.mark.parametrize(
  ('changes', 'expected'),
  [
    ({}, (11, 11)),  # 781 = 11 * 71
    ({'steps_per_epoch': 780}, (60, 12)),
    ({'steps_per_epoch': 97}, (97, 1)),  # a prime number
    ({'steps_per_epoch': 194}, (97, 1)),  # a dispatch of 2 steps is too short
    ({'steps': 8}, (8, 8)),
    ({'steps': 7, 'devices': 4}, (7, 7)),
    ({'image_size': 224}, (71, 1)),  # 64 images fill the chip
    ({'sizes': {'teacher': 224}}, (71, 1)),  # the teacher sees larger images
    ({'seeds': 3, 'steps_per_epoch': 780}, (60, 4)),  # of 3 times 64
    ({'platform': 'cpu'}, (1, 1)),
    ({'platform': 'tpu'}, (71, 1)),
    ({'cached': True}, (71, 1)),
    ({'ahead': 1}, (71, 1)),
    ({'ahead': 8}, (71, 8)),  # 8 passes of 8 steps, and one of 7
    ({'ahead': 4, 'steps_per_epoch': 780}, (60, 4)),
    ({'ahead': 8, 'steps': 16, 'platform': 'cpu'}, (16, 8)),
  ],
)
def test_steps_are_chosen_by_platform_or_as_asked(changes, expected):
  assert dispatch.chosen(setting(**changes))[:2] == expected


@pytest.mark.parametrize(
  ('method', 'taps'), [('kd', ['teacher logits']), ('at', ['stage1'])]
)
def test_what_is_kept_is_what_the_method_reads(method, taps):
  names, size = dispatch.kept(setting(method))
  assert names[-1].endswith(taps[-1])
  batch = 64 * (32 * 32 * 3 + 2) * 4
  map_bytes = 64 * 32 * 32 * 4 * 4 if method == 'at' else 0
  assert size == batch + map_bytes + 64 * tiny.CLASSES * 4
  assert dispatch.kept(setting(method, devices=2))[1] == size / 2


def test_the_opening_says_how_far_ahead_and_what_is_kept():
  note = dispatch.chosen(setting()).note
  assert '11 steps ahead, in passes of 704 images' in note
  assert note.endswith('keeps 8.68 MB: batches, teacher logits')


def test_a_pass_keeps_no_more_than_the_most(monkeypatch):
  _, size = dispatch.kept(setting())
  monkeypatch.setattr(dispatch, 'MOST_BYTES', 6.5 * size)
  assert dispatch.chosen(setting(steps_per_epoch=780)).ahead == 6
  with pytest.raises(errors.ArgumentError, match=r'give at most 6$'):
    dispatch.chosen(setting(ahead=8, steps=8))


BATCHED = Net(num_classes=tiny.CLASSES, batch_norm='batch')


@pytest.mark.parametrize(
  ('changes', 'why'),
  [
    ({'steps': 4}, 'has 4 here, .*: give at most 4, or .*dispatch=8$'),
    ({'steps': 0, 'platform': 'cpu'}, 'a dispatch has 1 here'),
    ({'teacher': BATCHED}, "teacher normalises with its batch's statistics"),
    ({'cached': True}, 'its logits are cached'),
  ],
)
def test_what_cannot_run_ahead_is_refused_where_it_is_asked_for(changes, why):
  given = setting(**{'steps': 8, 'ahead': 8, **changes})
  with pytest.raises(errors.ArgumentError, match=f'^teacher_ahead=8: .*{why}'):
    dispatch.chosen(given)


class Odd(Net):
  """A network with a tap that is not of images."""

  @nn.compact
  def __call__(self, images, *, train):
    tap(self, 'temperature', jax.numpy.ones(()))
    return super().__call__(images, train=train)


@pytest.mark.parametrize(
  ('teacher', 'why'),
  [
    (BATCHED, "its batch's statistics"),
    (tiny.Plain(), 'a network from elsewhere'),
    (Odd(num_classes=tiny.CLASSES), 'its tap temperature'),
  ],
)
def test_else_it_runs_step_by_step_and_the_opening_says_why(teacher, why):
  chosen = dispatch.chosen(setting(teacher=teacher))
  assert chosen[:2] == (71, 1)
  assert why in chosen.note


def test_a_network_from_elsewhere_runs_ahead_where_that_is_asked_for():
  chosen = dispatch.chosen(setting(teacher=tiny.Plain(), steps=8, ahead=8))
  assert chosen[:2] == (8, 8)


def test_the_key_of_a_run_is_named():
  config = config_lib.load('kd:digits')
  config.teacher_ahead = 8
  with pytest.raises(errors.UsageError, match=r'^config\.teacher_ahead=8: '):
    build.dispatch(
      config,
      experiment('kd', BATCHED),
      dict,
      sharding.make_mesh(1),
      *(32, 781),
      streams=False,
    )


@pytest.mark.parametrize(('devices', 'convolutions'), [(1, 3), (4, 1)])
def test_devices_that_share_a_batch_never_take_it_in_parts(
  monkeypatch, devices, convolutions
):
  def one_gradient(exp, assemble, seed, state, frozen, images, feeds):
    def loss(kernel):
      return layers.Conv(4, 3).convolve(images, kernel).sum()

    return jax.grad(loss)(state), {}

  monkeypatch.setattr(step, 'train_steps', one_gradient)
  kernel, images = jnp.zeros((3, 3, 3, 4)), jnp.zeros((40, 8, 8, 3))
  run = jitted.train_steps(None, None, sharding.make_mesh(devices))
  text = run.lower(0, kernel, {}, images, jnp.zeros((1, 4))).as_text()
  assert text.count('stablehlo.convolution(') == convolutions
