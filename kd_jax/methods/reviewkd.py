"""ReviewKD: the student's fused maps, deep into shallow, meet the teacher's.

From the deepest level on, each level's map joins what was fused of the deeper
ones, by an attention over both; a convolution of each result is compared with
the teacher's map of that level at several scales.

Source: Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021;
mdistiller a08d46f (mdistiller/distillers/ReviewKD.py), which we follow. There
channels and sizes are configured; here they are those of the features.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base
from kd_jax.models import layers

# U(-sqrt(3/fan_in), sqrt(3/fan_in)): torch's `kaiming_uniform_(a=1)`.
_init = nn.initializers.variance_scaling(1.0, 'fan_in', 'uniform')


class Fusion(nn.Module):
  """The paper's attention-based fusion (ABF) of one level.

  Attributes:
    width: channels of what passes from level to level.
    features: channels of the teacher's map.
    dtype: what it computes in.
    bn_group_size: see `layers.BatchNorm.group_size`.
  """

  width: int
  features: int
  dtype: jnp.dtype = jnp.float32
  bn_group_size: int = 0

  @nn.compact
  def __call__(
    self, x: jax.Array, deeper: jax.Array | None, height: int, width: int
  ) -> tuple[jax.Array, jax.Array]:
    """Fuses the student's map with the deeper levels'.

    Args:
      x: the student's map [N,h,w,c].
      deeper: what the next deeper level passes on [N,h',w',self.width]; None
        at the deepest, which has no attention.
      height: of the teacher's map.
      width: of the teacher's map.

    Returns:
      What is compared [N,height,width,features] and what the next shallower
      level gets [N,height,width,self.width].
    """
    x = self.normed(x, self.width, 1, '1')
    if deeper is not None:
      deeper = nearest(deeper, *x.shape[1:3])
      both = jnp.concatenate([x, deeper], axis=-1)
      attention = layers.torch_conv(
        2, 1, both.shape[-1], dtype=self.dtype, name='attention'
      )(both)
      ours, theirs = jnp.split(nn.sigmoid(attention), 2, axis=-1)
      x = ours * x + theirs * deeper
    x = nearest(x, height, width)
    return self.normed(x, self.features, 3, '2'), x

  def normed(
    self, x: jax.Array, features: int, kernel: int, name: str
  ) -> jax.Array:
    """A convolution without bias, then BatchNorm on batch statistics."""
    x = nn.Conv(
      features,
      (kernel, kernel),
      padding=((kernel // 2, kernel // 2),) * 2,
      use_bias=False,
      dtype=self.dtype,
      kernel_init=_init,
      name=f'conv{name}',
    )(x)
    norm = layers.BatchNorm(group_size=self.bn_group_size, name=f'bn{name}')
    return norm(x, train=True)


class Method(base.WithTaps):
  """ReviewKD with cross-entropy; its weight is warmed up over 20 epochs.

  Attributes:
    taps: the student's, shallow first; vectors such as 'pooled' count as maps
      of one pixel.
    teacher_taps: the teacher's, one for each, before their ReLU as released.
    max_width: the most channels that pass from level to level; fewer where
      the student's deepest tap has fewer.
    dtype: what the fusion computes in; the loss is float32.
    bn_group_size: of the fusion; see `layers.BatchNorm.group_size`.
  """

  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'reviewkd': ('student', 'method'),
  }

  taps: tuple[str, ...] = ('stage1', 'stage2', 'stage3', 'pooled')
  teacher_taps: tuple[str, ...] = (
    'stage1_pre',
    'stage2_pre',
    'stage3_pre',
    'pooled',
  )
  max_width: int = 512
  dtype: jnp.dtype = jnp.float32
  bn_group_size: int = 0

  @nn.compact
  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Terms: 'ce', 'kd', 'reviewkd' (the sum over levels)."""
    met = self.maps(feats)
    width = min(self.max_width, met[-1][0].shape[-1])
    total, deeper = jnp.zeros(()), None
    for i, (s, t) in reversed(list(enumerate(met))):
      height, across, features = t.shape[1:]
      fusion = Fusion(
        width, features, self.dtype, self.bn_group_size, name=f'fusion{i}'
      )
      out, deeper = fusion(s, deeper, height, across)
      total += losses.hierarchical_context(out, t)
    return {**self.standard(feats, batch), 'reviewkd': total}

  def maps(self, feats: NetFeatures) -> list[tuple[jax.Array, jax.Array]]:
    """The student's and the teacher's map of each level; vectors are 1x1."""
    found = []
    for theirs, ours in self.pairs():
      s, t = (
        x[:, None, None, :] if x.ndim == 2 else x
        for x in (feats['student'][ours], feats['teacher'][theirs])
      )
      if {s.ndim, t.ndim} != {4}:
        what = 'must be maps [N,H,W,C] or vectors [N,C]'
        raise base.mismatch(feats, theirs, ours, what)
      found.append((s, jax.lax.stop_gradient(t)))
    return found


def nearest(x: jax.Array, height: int, width: int) -> jax.Array:
  """Resizes x [N,h,w,c] to [N,height,width,c]: pixel i is i*h//height."""
  for axis, size in ((1, height), (2, width)):
    have = x.shape[axis]
    if size % have == 0:
      x = jnp.repeat(x, size // have, axis)
    else:
      x = jnp.take(x, np.arange(size) * have // size, axis)
  return x
