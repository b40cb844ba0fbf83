"""FPD: teacher and student meet in one trainable feature pyramid.

Four maps of each network go through the same feature pyramid (1x1 laterals,
bilinear top-down path, one 3x3 convolution smoothing all levels) and one
squeeze-and-excitation gate; the losses compare the two pyramids.

Source: Wang et al., "Feature Pyramid Knowledge Distillation", ICONIP 2022.
The architecture is a RECONSTRUCTION: only the paper's abstract is public, so we
follow public working code of the first author's account. Version 'A' is
attention-feature-distillation d84fefb (distill/FPD.py), 'B' is initialDemo
a5073fc (paper/FPD.py). Taps, loss weights and the separate laterals for
unequal channels are our choice where these leave it open.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors, losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base
from kd_jax.models import layers


class SqueezeExcite(nn.Module):
  """A channel gate: x * sigmoid(W2 relu(W1 mean_hw(x))), without biases."""

  reduction: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Gates x [N,h,w,c]."""
    channels = x.shape[-1]
    squeezed = x.mean(axis=(1, 2))
    for name, features in (
      ('fc1', channels // self.reduction),
      ('fc2', channels),
    ):
      squeezed = nn.Dense(
        features,
        use_bias=False,
        dtype=self.dtype,
        kernel_init=layers.torch_init,
        name=name,
      )(squeezed)
      if name == 'fc1':
        squeezed = nn.relu(squeezed)
    return x * nn.sigmoid(squeezed)[:, None, None, :]


class ConvNormLeaky(nn.Module):
  """3x3 convolution, BatchNorm on batch statistics, LeakyReLU(0.1)."""

  features: int
  dtype: jnp.dtype
  bn_group_size: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [N,h,w,c] to [N,h,w,features]."""
    x = nn.Conv(
      self.features,
      (3, 3),
      padding=((1, 1), (1, 1)),
      use_bias=False,
      dtype=self.dtype,
      kernel_init=layers.torch_init,
      name='conv',
    )(x)
    norm = layers.BatchNorm(group_size=self.bn_group_size, name='bn')
    return nn.leaky_relu(norm(x, train=True), 0.1)


class Laterals(nn.Module):
  """Brings the maps of one network to one width, one convolution a level."""

  version: str
  width: int
  widened: tuple[int, ...]
  dtype: jnp.dtype
  bn_group_size: int

  @nn.compact
  def __call__(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
    """Maps [N,h_k,w_k,c_k], shallow first, to [N,h_k,w_k,width]."""
    out = []
    for k, x in enumerate(maps):
      channels = x.shape[-1]
      if self.version == 'A':
        lateral: Callable = layers.torch_conv(
          self.width, 1, channels, dtype=self.dtype, name=f'lateral{k}'
        )
      else:
        widened = max(channels, self.widened[k])
        how = (self.dtype, self.bn_group_size)
        x = ConvNormLeaky(widened, *how, name=f'widen{k}')(x)
        lateral = ConvNormLeaky(self.width, *how, name=f'lateral{k}')
      out.append(lateral(x))
    return out


def top_down(laterals: Sequence[jax.Array]) -> list[jax.Array]:
  """Adds each level, enlarged bilinearly, to the next shallower one.

  Args:
    laterals: [N,h_k,w_k,c], shallow (large) first.
  """
  levels = [laterals[-1]]
  for lateral in reversed(laterals[:-1]):
    shape = lateral.shape
    levels.append(jax.image.resize(levels[-1], shape, 'bilinear') + lateral)
  return levels[::-1]


class Method(base.WithTaps):
  """FPD with KD and cross-entropy (reconstructed; see the module's head).

  Attributes:
    taps: the student's maps that enter the pyramid, shallow first.
    teacher_taps: the teacher's, one for each; () is the same names. Of two
      maps of different sizes the larger is averaged to the smaller (ours).
    version: 'A': 1x1 laterals; every level's MSE on the smoothed and on the
      gated maps, softmax-weighted. 'B': 3x3 convolutions with BatchNorm and
      LeakyReLU; MSE of the smoothed maps' channel means and of the gated maps'
      spatial means.
    width: channels of the pyramid.
    se_reduction: width over the gate's inner width.
    widened: version B's least width of each level before the laterals.
    guided: KD and pyramid learn only from images that the teacher classifies
      correctly; the mean of the pyramid's MSE stays over the whole batch.
    stop_grad_teacher_pyramid: the pyramid does not learn from the teacher's
      side. False is the released behaviour; the sown metric
      'teacher_pyramid_rms' shows if the pyramid shrinks.
    dtype: what the pyramid computes in; the losses are float32.
    bn_group_size: of version B; see `layers.BatchNorm.group_size`.
  """

  terms: ClassVar = {
    'ce': ('student',),
    'kd': ('student',),
    'fpd': ('student', 'method'),
  }
  reconstructed: ClassVar = (
    'FPD is a reconstruction: the paper publishes an abstract only; taps and '
    'weights are our choice'
  )

  taps: tuple[str, ...] = ('stem', 'stage1', 'stage2', 'stage3')
  version: Literal['A', 'B'] = 'A'
  width: int = 256
  se_reduction: int = 16
  widened: tuple[int, ...] = (32, 64, 128, 256)
  guided: bool = False
  stop_grad_teacher_pyramid: bool = False
  dtype: jnp.dtype = jnp.float32
  bn_group_size: int = 0

  def __post_init__(self):
    """Raises UsageError where the arguments contradict each other."""
    if self.version not in ('A', 'B'):
      raise errors.unknown('version of fpd:', self.version, 'AB')
    if self.width % self.se_reduction:
      raise errors.UsageError(
        f'fpd: se_reduction={self.se_reduction} does not divide '
        f'width={self.width}'
      )
    if self.version == 'B' and len(self.widened) != len(self.taps):
      raise errors.UsageError(
        f'fpd: widened={self.widened} needs one width for each of the '
        f'{len(self.taps)} taps'
      )
    super().__post_init__()

  @nn.compact
  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Terms: 'ce', 'kd', 'fpd'."""
    student, teacher = feats['student'], feats['teacher']
    if self.guided:
      guide = teacher['logits'].argmax(-1) == losses.classes(batch['label'])
    else:
      guide = jnp.ones(teacher['logits'].shape[:1], bool)
    smooth_t, gated_t, smooth_s, gated_s = self.pyramids(feats)
    keep = guide[:, None, None, None]
    levels = [
      (jnp.where(keep, s, 0.0), jnp.where(keep, t, 0.0))
      for s, t in zip(smooth_s + gated_s, smooth_t + gated_t, strict=True)
    ]
    smooth, gated = levels[: len(self.taps)], levels[len(self.taps) :]
    if self.version == 'A':
      parts = [
        losses.softmax_weighted_sum([losses.mse(s, t) for s, t in part])
        for part in (smooth, gated)
      ]
    else:
      parts = [
        jnp.stack(
          [losses.mse(s.mean(axis), t.mean(axis)) for s, t in part]
        ).sum()
        for part, axis in ((smooth, -1), (gated, (1, 2)))
      ]
    return {
      'ce': losses.cross_entropy(student['logits'], batch['label']),
      'kd': losses.guided_kl(
        student['logits'], teacher['logits'], guide, self.temperature
      ),
      'fpd': losses.softmax_weighted_sum(parts),
    }

  def pyramids(self, feats: NetFeatures) -> tuple[list[jax.Array], ...]:
    """Smoothed and gated levels of the teacher, then of the student, f32."""
    met = [losses.aligned(s, t) for s, t in base.met(feats, super().pairs())]
    maps_s, maps_t = map(list, zip(*met, strict=True))
    how = (self.dtype, self.bn_group_size)
    shape = (self.version, self.width, self.widened, *how)
    laterals = Laterals(*shape, name='laterals')
    laterals_t = laterals
    if [t.shape[-1] for t in maps_t] != [s.shape[-1] for s in maps_s]:
      laterals_t = Laterals(*shape, name='teacher_laterals')
    if self.version == 'A':
      smooth: Callable = layers.torch_conv(
        self.width, 3, 9 * self.width, dtype=self.dtype, name='smooth'
      )
    else:
      smooth = ConvNormLeaky(self.width, *how, name='smooth')
    gate = SqueezeExcite(self.se_reduction, self.dtype, name='gate')
    # The teacher goes first, in a call of its own: version B's BatchNorm
    # takes each network's statistics separately, as the code does.
    out: list[list[jax.Array]] = []
    for lateral, maps in ((laterals_t, maps_t), (laterals, maps_s)):
      smoothed = [smooth(level) for level in top_down(lateral(maps))]
      gated = [gate(level) for level in smoothed]
      out += [
        [x.astype(jnp.float32) for x in part] for part in (smoothed, gated)
      ]
    if self.stop_grad_teacher_pyramid:
      out[:2] = jax.lax.stop_gradient(out[:2])
    squares = jnp.stack([jnp.square(level).mean() for level in out[0]])
    self.measure('teacher_pyramid_rms', jnp.sqrt(squares.mean()))
    return tuple(out)

  def pairs(self) -> tuple[tuple[str, str], ...]:
    """The maps of the pyramids meet, and the logits."""
    return (*super().pairs(), ('logits', 'logits'))
