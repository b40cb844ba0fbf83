"""ReviewKD: the student's maps, fused deep to shallow, match the teacher's.

Starting at the deepest level, an attention fuses each level's map with the
fused map of the deeper levels. A convolution of each fused map is compared with
the teacher's map of that level at several scales.

Source: Chen et al., "Distilling Knowledge via Knowledge Review", CVPR 2021;
mdistiller a08d46f (mdistiller/distillers/ReviewKD.py), which we follow. The
released code configures channels and sizes; here the features determine them.
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
  """The paper's attention-based fusion (ABF) of a level.

  Attributes:
    width: The channels of the fused map.
    features: The channels of the teacher's map.
    dtype: The dtype in which the fusion computes.
    bn_group_size: See `layers.BatchNorm.group_size`.
  """

  width: int
  features: int
  dtype: jnp.dtype = jnp.float32
  bn_group_size: int = 0

  @nn.compact
  def __call__(
    self, x: jax.Array, deeper: jax.Array | None, height: int, width: int
  ) -> tuple[jax.Array, jax.Array]:
    """Fuses the student's map with the fused map of the deeper levels.

    Args:
      x: The student's map, [N,h,w,c] f32.
      deeper: The fused map of the next deeper level, [N,H,W,self.width]; None
        at the deepest level, which has no attention.
      height: The height of the teacher's map.
      width: The width of the teacher's map.

    Returns:
      The map to compare with the teacher's, [N,height,width,self.features],
      and the fused map for the next shallower level,
      [N,height,width,self.width].
    """
    x = self.normed(x, self.width, 1, '1')
    if deeper is not None:
      deeper = nearest(deeper, *x.shape[1:3])
      both = jnp.concatenate([x, deeper], axis=-1)
      attention = layers.torch_conv(
        2, 1, both.shape[-1], dtype=self.dtype, name='attention'
      )(both)
      x_weight, deeper_weight = jnp.split(nn.sigmoid(attention), 2, axis=-1)
      x = x_weight * x + deeper_weight * deeper
    x = nearest(x, height, width)
    return self.normed(x, self.features, 3, '2'), x

  def normed(
    self, x: jax.Array, features: int, kernel: int, name: str
  ) -> jax.Array:
    """Applies a convolution without bias, then BatchNorm on batch statistics.

    Args:
      x: The map, [N,h,w,c].
      features: The output channels.
      kernel: The side of the kernel.
      name: The suffix of both submodules' names.

    Returns:
      The normalised map, [N,h,w,features].
    """
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
  """The method ReviewKD; its recipes warm its term up over 20 epochs.

  Attributes:
    taps: The student's taps, shallow first; a vector such as 'pooled' counts as
      a map of a single pixel.
    teacher_taps: The teacher's taps, one for each of the student's, before the
      ReLU as in the released code.
    max_width: The most channels of the fused map, which has no more than the
      student's deepest tap.
    dtype: The dtype in which the fusion computes; the loss is float32.
    bn_group_size: The BatchNorm group size of the fusion; see
      `layers.BatchNorm.group_size`.
  """

  is_dense: ClassVar = True
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
    """Returns 'ce', 'kd' and 'reviewkd', the sum over levels."""
    levels = self.maps(feats)
    width = min(self.max_width, levels[-1][0].shape[-1])
    total, deeper = jnp.zeros(()), None
    for i, (s, t) in reversed(list(enumerate(levels))):
      height, map_width, features = t.shape[1:]
      fusion = Fusion(
        width, features, self.dtype, self.bn_group_size, name=f'fusion{i}'
      )
      fused, deeper = fusion(s, deeper, height, map_width)
      total += losses.hierarchical_context(fused, t)
    return {**self.standard(feats, batch), 'reviewkd': total}

  def maps(self, feats: NetFeatures) -> list[tuple[jax.Array, jax.Array]]:
    """Returns the student's and the teacher's map of each level.

    A vector becomes a map of 1x1. No gradient flows to the teacher's maps.

    Args:
      feats: The features of both networks.

    Returns:
      The pairs (student's map, teacher's map), [N,H,W,C] f32, shallow first.

    Raises:
      UsageError: A tap is neither a map nor a vector.
    """
    maps = []
    for teacher_tap, student_tap in self.pairs():
      s, t = (
        x[:, None, None, :] if x.ndim == 2 else x
        for x in (feats['student'][student_tap], feats['teacher'][teacher_tap])
      )
      if {s.ndim, t.ndim} != {4}:
        what = 'must be maps [N,H,W,C] or vectors [N,C]'
        raise base.mismatch(feats, teacher_tap, student_tap, what)
      maps.append((s, jax.lax.stop_gradient(t)))
    return maps


def nearest(x: jax.Array, height: int, width: int) -> jax.Array:
  """Returns a map resized by nearest-neighbour interpolation.

  Row i of the result is row i*h//height of the map; columns correspond.

  Args:
    x: The map, [N,h,w,c].
    height: The rows of the result.
    width: The columns of the result.

  Returns:
    The resized map, [N,height,width,c].
  """
  for axis, new_size in ((1, height), (2, width)):
    old_size = x.shape[axis]
    if new_size % old_size == 0:
      x = jnp.repeat(x, new_size // old_size, axis)
    else:
      x = jnp.take(x, np.arange(new_size) * old_size // new_size, axis)
  return x
