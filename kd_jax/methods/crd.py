"""CRD: the student's embedding of an image picks out the teacher's among many.

And the teacher's the student's. The many are a memory of the embeddings that
all training images last had.

Source: Tian et al., "Contrastive Representation Distillation", ICLR 2020;
RepDistiller b84f547 (crd/), which we follow: two banks, negatives of other
classes, normalisers that the first step fixes. Its sampling runs in the data
loader, ours under jit (see `distinct`).
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

ROUNDS = 8  # of the Feistel network


def distinct(
  key: jax.Array, below: jax.Array, most: int, count: int
) -> jax.Array:
  """Draws `count` different numbers from 0 to below[i] - 1, for each i.

  Row i is `count` neighbouring places, from a random one on, of a random
  permutation of its range: hence no repeats, and at the cost of what is drawn,
  not of a sort of the range. The permutation is a Feistel network over a
  square that covers the range, whose round functions are tables of random
  numbers; what falls outside the range goes through again until it is inside.
  As the first place is uniform, each number is exactly equally likely at each
  place. A sum over the row, such as the loss, has therefore the mean of a draw
  from all subsets; that the subsets are equally likely is a good approximation.
  Rows are independent.

  Args:
    key: random key.
    below: [N] i32, each at least `count`.
    most: the largest of all `below` that there may be.
    count: how many numbers.

  Returns:
    [N,count] i32.
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
    added = jnp.take_along_axis(tables[i], right, axis=1)
    return right, (left + added) % side

  places = (start + jnp.arange(count)[None, :]) % below
  drawn, _ = jax.lax.while_loop(
    lambda state: state[1].any(), again, (places, jnp.ones_like(places, bool))
  )
  return drawn


class Method(base.WithTeacher):
  """CRD with cross-entropy and KD.

  Its collection 'memory' holds the banks 'student' and 'teacher' [M,width] of
  the M training images, and 'student_z' and 'teacher_z', the normalisers of
  each network's embeddings against the other's bank; 0 is not yet fixed. They
  move where the collection is mutable.

  A batch may bring 'contrast_index' [N,K+1] i32, the image's own position in
  the training split first; otherwise `negatives` are drawn.

  Attributes:
    num_classes: of the data set.
    train_labels: [M] i32, the class of each training image.
    width: of the embeddings.
    negatives: K, images of other classes that each image is compared with.
    contrast_temperature: tau, by which similarities are divided.
    momentum: what a bank's row keeps when its image is seen.
  """

  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'crd': ('student', 'method'),
  }

  num_classes: int = dataclasses.field(kw_only=True)
  train_labels: np.ndarray = dataclasses.field(kw_only=True, repr=False)
  width: int = 128
  negatives: int = 16384
  contrast_temperature: float = 0.07
  momentum: float = 0.5

  def __post_init__(self):
    """Raises UsageError where nothing is drawn."""
    if self.negatives < 1:
      raise errors.UsageError(
        f'crd: negatives={self.negatives}: give 1 or more'
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Terms: 'ce', 'kd', 'crd'."""
    ((s, t),) = base.met(feats, self.pairs(), ndim=2)
    own = batch['index']
    index = batch.get('contrast_index')
    if index is None:
      drawn = self.drawn(own)
      index = jnp.concatenate([own[:, None], drawn], axis=1)
    embeddings, banks = {}, {}
    for name, x in (('student', s), ('teacher', t)):
      linear = layers.Linear(self.width, name=f'{name}_embedding')
      embeddings[name] = losses.unit(linear(x))
      banks[name] = self.variable('memory', name, self.first_bank)
    moves = self.is_mutable_collection('memory') and not self.is_initializing()
    images = len(self.train_labels)
    total = jnp.zeros(())
    for name, other in (('student', 'teacher'), ('teacher', 'student')):
      similar = losses.similarities(
        embeddings[name], banks[other].value, index, self.contrast_temperature
      )
      fixed = self.variable('memory', f'{name}_z', jnp.zeros, ())
      z = jnp.where(fixed.value > 0, fixed.value, similar.mean() * images)
      z = jax.lax.stop_gradient(z)
      if moves:
        fixed.value = z
      total += losses.contrastive(similar / z, images)
    for name, bank in banks.items():
      if moves:  # after both sides have read
        kept = self.momentum * bank.value[own]
        seen = jax.lax.stop_gradient(embeddings[name])
        moved = losses.unit(kept + (1 - self.momentum) * seen)
        bank.value = bank.value.at[own].set(moved)
    return {**self.standard(feats, batch), 'crd': total}

  def pairs(self) -> tuple[tuple[str, str], ...]:
    """The pooled vectors meet."""
    return (('pooled', 'pooled'),)

  def first_bank(self) -> jax.Array:
    """A bank [M,width] of rows whose length is about 1."""
    bound = (3 / self.width) ** 0.5
    shape = (len(self.train_labels), self.width)
    return jax.random.uniform(
      self.make_rng('params'), shape, jnp.float32, -bound, bound
    )

  def drawn(self, own: jax.Array) -> jax.Array:
    """Positions [N,K] i32 of images of other classes than the images `own`.

    In the training images sorted by class those of all other classes are one
    stretch, which begins behind the own class and goes round the end.

    Raises:
      UsageError: where there are fewer than K.
    """
    labels = np.asarray(self.train_labels)
    order = np.argsort(labels, kind='stable').astype(np.int32)
    sizes = np.bincount(labels).astype(np.int32)
    ends = np.cumsum(sizes, dtype=np.int32)
    others = len(labels) - sizes
    least = int(others[sizes > 0].min())
    count = self.negatives
    if np.array_equal(labels, np.arange(self.num_classes)):
      # `build.check` traces before the data are there: one image a class.
      count = min(count, least)
    if count > least:
      raise errors.UsageError(
        f'crd: negatives={count} is more than the {least} training images '
        'of other classes; give less (config.method_args.negatives)'
      )
    classes = jnp.asarray(labels)[own]
    places = distinct(
      self.make_rng('method'),
      jnp.asarray(others)[classes],
      int(others.max()),
      count,
    )
    behind = jnp.asarray(ends)[classes][:, None]
    return jnp.asarray(order)[(behind + places) % len(labels)]
