"""The smallest networks, features and batches that tests share."""

from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np

from kd_jax import models
from kd_jax.distill import step
from kd_jax.features import tap
from kd_jax.methods import registry
from kd_jax.models import layers

CLASSES, SIZE = 10, 8


def network(name='resnet8', widths=(4, 4, 8, 16), **kwargs):
  """Returns a small network, by name."""
  return models.make(name, CLASSES, widths=widths, **kwargs)


class Block(nn.Module):
  """A convolution and a BatchNorm, named as the last pair of a ResNet block."""

  width: int
  stride: int
  norm: Callable[..., nn.Module] = layers.BatchNorm

  @nn.compact
  def __call__(self, x, *, train):
    after = layers.Conv(self.width, 3, self.stride, name='conv2')
    return self.norm(name='bn2')(x, train=train, after=after)


class Plain(nn.Module):
  """A ResNet with a fifth of the layers, but all taps and parameter names.

  The contract of every method is checked on it, as it compiles fast.
  """

  widths: tuple[int, ...] = (4, 4, 8, 16)

  @nn.compact
  def __call__(self, images, *, train):
    x = layers.Conv(self.widths[0], 3, name='conv1')(images)
    x = tap(self, 'stem', nn.relu(x))
    for i, width in enumerate(self.widths[1:], 1):
      stride = 1 if i == 1 else 2
      pre = Block(width, stride, name=f'stage{i}_block1')(x, train=train)
      x = tap(self, f'stage{i}', nn.relu(tap(self, f'stage{i}_pre', pre)))
    pooled = tap(self, 'pooled', x.mean(axis=(1, 2)))
    return tap(self, 'logits', layers.Linear(CLASSES, name='fc')(pooled))


def batch(size=8, seed=0):
  """Returns a random batch of `size` images."""
  rng = np.random.default_rng(seed)
  return {
    'image': rng.normal(size=(size, SIZE, SIZE, 3)).astype(np.float32),
    'label': rng.integers(0, CLASSES, size).astype(np.int32),
    'index': np.arange(size, dtype=np.int32),
  }


def variables(net, seed=0):
  """Returns a network's variables, whose running statistics are a batch's."""

  def init(key, image):
    initial = dict(net.init(key, image, train=True))
    initial.pop('intermediates', None)
    _, updated = net.apply(initial, image, train=True, mutable=['batch_stats'])
    stats = jax.tree.map(
      lambda new, old: (new - 0.9 * old) / 0.1,  # undo the running average
      updated['batch_stats'],
      initial['batch_stats'],
    )
    return {**initial, 'batch_stats': stats}

  return jax.jit(init)(jax.random.key(seed), batch(8, seed)['image'])


def experiment(method, tx=None, weights=None, student=None, teacher=None):
  """Returns an experiment of a method on tiny networks.

  Args:
    method: The method.
    tx: The optimizer.
    weights: The schedules of the terms' weights; by default the constant 1.
    student: The network of every student.
    teacher: The network of every teacher.
  """
  ones = {name: (lambda _: jax.numpy.ones(())) for name in method.terms}
  return step.Experiment(
    students={name: student or network() for name in method.students},
    teachers={name: teacher or network() for name in method.teachers},
    method=method,
    weights=weights or ones,
    tx=tx,
  )


def method(name, **kwargs):
  """Returns a method by name, with the facts of the data that it needs."""
  facts = {'num_classes': CLASSES, 'train_labels': batch()['label']}
  fields = registry.fields(registry.method_class(name))
  return registry.make(
    name, **{k: facts[k] for k in facts if k in fields}, **kwargs
  )
