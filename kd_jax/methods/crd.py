"""CRD: the student's embedding of an image identifies the teacher's among many.

The teacher's embedding identifies the student's in turn. The candidates come
from memory banks, which hold a moving average of the embeddings of every
training image.

Source: Tian et al., "Contrastive Representation Distillation", ICLR 2020;
RepDistiller b84f547 (crd/), which we follow: there are two banks, negatives
come from other classes, and the first step fixes the normalisers. RepDistiller
samples in the data loader; here sampling runs under jit (see `distinct`).
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import errors, losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base
from kd_jax.models import layers

ROUNDS = 8  # The rounds of the Feistel network.


def distinct(
  key: jax.Array, below: jax.Array, most: int, count: int
) -> jax.Array:
  """Returns `count` distinct random numbers below `below[i]`, for each row i.

  A row consists of `count` consecutive entries, from a random start, of a
  random permutation of 0 to below[i] - 1. Hence numbers do not repeat, and the
  cost is that of the numbers drawn, not of sorting the range. The permutation
  is a Feistel network over a square that covers the range; its round functions
  are tables of random numbers. A number outside the range passes through the
  network again until it is inside.

  As the start is uniform, every number is exactly equally likely at every
  position. A sum over the row, such as the loss, thus has the same expectation
  as for a uniformly drawn subset. That all subsets are equally likely is only a
  good approximation. Rows are independent.

  Args:
    key: The random key.
    below: The exclusive upper bound of each row, at least `count`, [N] i32.
    most: An upper bound of all `below`.
    count: The numbers to draw for each row.

  Returns:
    The numbers, [N,count] i32.
  """
  side = int(np.ceil(np.sqrt(most)))
  first, rounds = jax.random.split(key)
  below = below[:, None]
  start = jax.random.randint(first, below.shape, 0, below)
  tables = jax.random.randint(rounds, (ROUNDS, len(below), side), 0, side)

  def again(state):
    x, outside = state
    left, right = jax.lax.fori_loop(0, ROUNDS, half, (x // side, x % side))
    x = jnp.where(outside, left * side + right, x)
    return x, x >= below

  def half(i, halves):
    left, right = halves
    addends = jnp.take_along_axis(tables[i], right, axis=1)
    return right, (left + addends) % side

  positions = (start + jnp.arange(count)[None, :]) % below
  drawn, _ = jax.lax.while_loop(
    lambda state: state[1].any(),
    again,
    (positions, jnp.ones_like(positions, bool)),
  )
  return drawn


class Method(base.WithTeacher):
  """The method CRD, which contrasts embeddings with memory banks.

  The collection 'memory' holds the banks 'student' and 'teacher', [M,width]
  f32, with a row for each of the M training images. It also holds 'student_z'
  and 'teacher_z', [] f32, which normalise a network's similarities to the
  other network's bank; 0 means that the normaliser is not fixed yet. Banks and
  normalisers are updated where the collection is mutable.

  A batch may contain 'contrast_index', [N,K+1] i32, positions in the training
  split of which column 0 is the image itself. Otherwise `negatives` images are
  drawn.

  Attributes:
    num_classes: The number of classes of the data set.
    train_labels: The class of each training image, [M] i32.
    width: The width of the embeddings.
    negatives: K, the number of images of other classes with which each image
      is compared.
    contrast_temperature: The temperature tau, by which similarities are
      divided.
    momentum: The fraction of a bank's row that is kept when its image is seen.
    stand_in: Whether `train_labels` only stand in for those of a data set that
      is not loaded yet; then fewer negatives will do.
  """

  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'crd': ('student', 'method'),
  }

  needs_class: ClassVar = True  # negatives are images of other classes

  num_classes: int = dataclasses.field(kw_only=True)
  train_labels: np.ndarray = dataclasses.field(kw_only=True, repr=False)
  width: int = 128
  negatives: int = 16384
  contrast_temperature: float = 0.07
  momentum: float = 0.5
  stand_in: bool = False

  @nn.compact
  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns 'ce', 'kd' and 'crd', the sum of both networks' losses."""
    ((s, t),) = base.met(feats, self.pairs(), ndim=2)
    positions = batch['index']
    index = batch.get('contrast_index')
    if index is None:
      negatives = self.drawn(positions)
      index = jnp.concatenate([positions[:, None], negatives], axis=1)
    embeddings, banks = {}, {}
    for name, x in (('student', s), ('teacher', t)):
      linear = layers.Linear(self.width, name=f'{name}_embedding')
      embeddings[name] = losses.unit(linear(x))
      banks[name] = self.variable('memory', name, self.first_bank)
    updates = (
      self.is_mutable_collection('memory') and not self.is_initializing()
    )
    images = len(self.train_labels)
    total = jnp.zeros(())
    for name, other in (('student', 'teacher'), ('teacher', 'student')):
      similarities = losses.similarities(
        embeddings[name], banks[other].value, index, self.contrast_temperature
      )
      stored_z = self.variable('memory', f'{name}_z', jnp.zeros, ())
      z = jnp.where(
        stored_z.value > 0, stored_z.value, similarities.mean() * images
      )
      z = jax.lax.stop_gradient(z)
      if updates:
        stored_z.value = z
      total += losses.contrastive(similarities / z, images)
    for name, bank in banks.items():
      if updates:  # Only now that both losses have read the banks.
        old_part = self.momentum * bank.value[positions]
        embedding = jax.lax.stop_gradient(embeddings[name])
        rows = losses.unit(old_part + (1 - self.momentum) * embedding)
        bank.value = bank.value.at[positions].set(rows)
    return {**self.standard(feats, batch), 'crd': total}

  def pairs(self) -> tuple[tuple[str, str], ...]:
    """Returns the pair of pooled vectors."""
    return (('pooled', 'pooled'),)

  def first_bank(self) -> jax.Array:
    """Returns a random bank, [M,width] f32, whose rows have length about 1."""
    bound = (3 / self.width) ** 0.5
    shape = (len(self.train_labels), self.width)
    return jax.random.uniform(
      self.make_rng('params'), shape, jnp.float32, -bound, bound
    )

  def drawn(self, own: jax.Array) -> jax.Array:
    """Returns the positions of random training images of other classes.

    Among the training images sorted by class, the images of all other classes
    are contiguous: they begin after the image's class and wrap around the end.

    Args:
      own: The positions of the batch's images in the training split, [N] i32.

    Returns:
      The positions of each image's negatives, [N,K] i32.

    Raises:
      UsageError: A class has fewer than K images of other classes.
    """
    labels = np.asarray(self.train_labels)
    order = np.argsort(labels, kind='stable').astype(np.int32)
    sizes = np.bincount(labels).astype(np.int32)
    ends = np.cumsum(sizes, dtype=np.int32)
    others = len(labels) - sizes
    fewest = int(others[sizes > 0].min())
    count = self.negatives
    if self.stand_in:
      count = min(count, fewest)
    if count > fewest:
      raise errors.ArgumentError(
        f'negatives={count} is more than the {fewest} training images of '
        'other classes; give less'
      )
    classes = jnp.asarray(labels)[own]
    offsets = distinct(
      self.make_rng('method'),
      jnp.asarray(others)[classes],
      int(others.max()),
      count,
    )
    starts = jnp.asarray(ends)[classes][:, None]
    return jnp.asarray(order)[(starts + offsets) % len(labels)]
