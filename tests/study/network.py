"""The smallest network that whole runs of a sweep train."""

import flax.linen as nn

from kd_jax.features import tap
from kd_jax.models import layers


class Small(nn.Module):
  """A linear layer on the mean of the rows."""

  num_classes: int
  widths: tuple[int, ...] = (24,)

  @nn.compact
  def __call__(self, images, *, train):
    x = images.mean(axis=1).reshape(len(images), -1)
    pooled = tap(self, 'pooled', layers.Linear(self.widths[0], name='a')(x))
    logits = layers.Linear(self.num_classes, name='fc')(pooled)
    return tap(self, 'logits', logits)
