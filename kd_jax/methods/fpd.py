"""FPD: a trainable feature pyramid compares teacher and student.

Four maps of each network pass through the same feature pyramid (1x1 laterals, a
bilinear top-down path, a 3x3 convolution that smooths all levels) and the same
squeeze-and-excitation gate. The losses compare the two pyramids.

Source: Wang et al., "Feature Pyramid Knowledge Distillation", ICONIP 2022.
The architecture is a RECONSTRUCTION: only the paper's abstract is public, so we
follow working code in public repositories of the first author's account.
Version 'A' is attention-feature-distillation d84fefb (distill/FPD.py), 'B' is
initialDemo a5073fc (paper/FPD.py). Where these leave it open, taps, loss
weights and the separate laterals for unequal channels are our choice.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors, losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base
from kd_jax.models import layers


class SqueezeExcite(nn.Module):
  """A channel gate, x * sigmoid(W2 relu(W1 mean_hw(x))), without biases.

  Attributes:
    reduction: The factor by which the inner width is smaller than the map's.
    dtype: The dtype in which the gate computes.
  """

  reduction: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Returns the gated map in the shape of x [N,h,w,c]."""
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
  """A 3x3 convolution, BatchNorm on batch statistics and LeakyReLU(0.1).

  Attributes:
    features: The output channels.
    dtype: The dtype in which the convolution computes.
    bn_group_size: See `layers.BatchNorm.group_size`.
  """

  features: int
  dtype: jnp.dtype
  bn_group_size: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x [N,h,w,c] to [N,h,w,features]."""
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
  """Lateral convolutions that map a network's levels to a common width.

  Attributes:
    version: The pyramid's version, 'A' or 'B'.
    width: The output channels of every level.
    widened: The least width of each level before the laterals, for version 'B'.
    dtype: The dtype in which the convolutions compute.
    bn_group_size: See `layers.BatchNorm.group_size`.
  """

  version: str
  width: int
  widened: tuple[int, ...]
  dtype: jnp.dtype
  bn_group_size: int

  @nn.compact
  def __call__(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
    """Maps levels k [N,h_k,w_k,c_k], shallow first, to [N,h_k,w_k,width]."""
    outputs = []
    for k, x in enumerate(maps):
      channels = x.shape[-1]
      if self.version == 'A':
        lateral: Callable = layers.torch_conv(
          self.width, 1, channels, dtype=self.dtype, name=f'lateral{k}'
        )
      else:
        widened = max(channels, self.widened[k])
        settings = (self.dtype, self.bn_group_size)
        x = ConvNormLeaky(widened, *settings, name=f'widen{k}')(x)
        lateral = ConvNormLeaky(self.width, *settings, name=f'lateral{k}')
      outputs.append(lateral(x))
    return outputs


def top_down(laterals: Sequence[jax.Array]) -> list[jax.Array]:
  """Returns the levels of the pyramid's top-down path.

  The deepest level is its lateral. Every other level is its lateral plus the
  next deeper level, enlarged bilinearly.

  Args:
    laterals: The laterals, each [N,h_k,w_k,c], shallow (large) first.

  Returns:
    The levels, in the shapes and the order of the laterals.
  """
  levels = [laterals[-1]]
  for lateral in reversed(laterals[:-1]):
    levels.append(_enlarged(levels[-1], lateral.shape) + lateral)
  return levels[::-1]


def _enlarged(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Returns maps [N,h,w,C] enlarged bilinearly to a shape [N,H,W,C].

  Twice a side is written out. `jax.image.resize` makes matrix products of it,
  for which a GPU transposes the maps.
  """
  for axis in (1, 2):
    if shape[axis] == 2 * x.shape[axis]:
      x = _doubled(x, axis)
  return jax.image.resize(x, shape, 'bilinear')


def _doubled(x: jax.Array, axis: int) -> jax.Array:
  """Returns maps with one side twice as long.

  A pixel is three quarters of the nearest one and a quarter of the second
  nearest; outside, the outermost pixels are repeated.
  """

  def part(start: int | None, stop: int | None) -> jax.Array:
    return jax.lax.slice_in_dim(x, start, stop, axis=axis)

  before = jnp.concatenate([part(0, 1), part(0, -1)], axis)
  after = jnp.concatenate([part(1, None), part(-1, None)], axis)
  pairs = [0.75 * x + 0.25 * second for second in (before, after)]
  shape = list(x.shape)
  shape[axis] *= 2
  return jnp.stack(pairs, axis + 1).reshape(shape)


def _smoothed(
  laterals: Laterals, smooth: layers.Conv, maps: Sequence[jax.Array]
) -> list[jax.Array]:
  """Returns a network's smoothed levels of version 'A'.

  A level that is as large as the next deeper one is that level plus its own
  lateral, and smoothing is linear. Its smoothed map is therefore the deeper
  one's plus the lateral's, and the lateral and the smoothing are one
  convolution of the map, which has fewer channels than the pyramid.

  Args:
    laterals: The laterals.
    smooth: The convolution that smooths.
    maps: The network's maps, shallow first, each [N,h_k,w_k,c_k].

  Returns:
    The levels, shallow first, each [N,h_k,w_k,width].
  """
  levels = top_down(laterals(maps))
  smoothed = [smooth(levels[-1])]
  for k in reversed(range(len(maps) - 1)):
    alike = levels[k].shape == levels[k + 1].shape
    if alike and maps[k].shape[-1] < smooth.features:
      lateral: Any = laterals.get_variable('params', f'lateral{k}')
      smoothed.append(smoothed[-1] + _composed(maps[k], lateral, smooth))
    else:
      smoothed.append(smooth(levels[k]))
  return smoothed[::-1]


def _composed(
  x: jax.Array, lateral: Mapping[str, jax.Array], smooth: layers.Conv
) -> jax.Array:
  """Returns the smoothed lateral of a map, without the bias that smooths.

  Args:
    x: The map, [N,h,w,c].
    lateral: The lateral's 'kernel' [1,1,c,width] and 'bias' [width].
    smooth: The convolution that smooths.

  Returns:
    [N,h,w,width].
  """
  rows = jnp.concatenate([lateral['kernel'][0, 0], lateral['bias'][None, :]])
  kernel: jax.Array = smooth.get_variable('params', 'kernel')
  kernel = jnp.einsum('cm,hwmo->hwco', rows, kernel)
  # The zeros around a map are none of the lateral's bias.
  inside = jnp.ones((1, *x.shape[1:-1], 1))
  bias = smooth.convolve(inside, kernel[:, :, -1:])
  return smooth.convolve(x, kernel[:, :, :-1]) + bias


class Method(base.WithTaps):
  """The method FPD, reconstructed as the module's docstring describes.

  Attributes:
    taps: The student's maps that enter the pyramid, shallow first.
    teacher_taps: The teacher's maps, one for each of the student's; () stands
      for the student's names. Of two maps of different sizes the larger is
      averaged to the smaller, which is our choice.
    version: The architecture and its loss. 'A' has 1x1 laterals; its loss is
      the softmax-weighted MSE of every level's smoothed and gated maps. 'B' has
      3x3 convolutions with BatchNorm and LeakyReLU; its loss is the MSE of the
      smoothed maps' channel means and of the gated maps' spatial means.
    width: The channels of the pyramid.
    se_reduction: The factor by which the gate's inner width is smaller than
      `width`.
    widened: The least width of each level before the laterals, for version 'B'.
    guided: Whether 'kd' and 'fpd' learn only from images that the teacher
      classifies correctly. The pyramid's MSE remains a mean over the whole
      batch. For classification alone: elsewhere no image is right or wrong.
    stop_grad_teacher_pyramid: Whether gradients through the teacher's side of
      the pyramid are stopped. False is the released behaviour; the sown metric
      'teacher_pyramid_rms' shows whether the pyramid shrinks.
    dtype: The dtype in which the pyramid computes; the losses are float32.
    bn_group_size: The BatchNorm group size of version 'B'; see
      `layers.BatchNorm.group_size`.
  """

  is_dense: ClassVar = True
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
    super().__post_init__()
    if self.version not in ('A', 'B'):
      raise errors.unknown('version of fpd:', self.version, 'AB')
    if self.width % self.se_reduction:
      raise errors.ArgumentError(
        f'se_reduction={self.se_reduction} does not divide width={self.width}'
      )
    if self.version == 'B' and len(self.widened) != len(self.taps):
      raise errors.ArgumentError(
        f'widened={self.widened} needs one width for each of the '
        f'{len(self.taps)} taps'
      )

  @property
  def needs_class(self) -> bool:  # type: ignore[override]
    """Whether each image must be of one class, which guides."""
    return self.guided

  @nn.compact
  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns the terms 'ce', 'kd' and 'fpd'."""
    student, teacher = feats['student'], feats['teacher']
    is_dense = self.task.name != 'classification'
    if self.guided and is_dense:
      raise errors.ArgumentError(
        'guided=True asks whether the teacher is right about a whole image, '
        f'and the task is {self.task.name}: give False'
      )
    if self.guided:
      guide = teacher['logits'].argmax(-1) == losses.classes(batch['label'])
    else:
      guide = jnp.ones(len(teacher['logits']), bool)
    smooth_t, gated_t, smooth_s, gated_s = self.pyramids(feats)
    selected = guide[:, None, None, None]
    levels = [
      (jnp.where(selected, s, 0.0), jnp.where(selected, t, 0.0))
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
    if is_dense:
      kd = self.task.distilled(student, teacher, batch, self.temperature)
    else:
      kd = losses.guided_kl(
        student['logits'], teacher['logits'], guide, self.temperature
      )
    return {
      'ce': self.task.supervised(student, batch),
      'kd': kd,
      'fpd': losses.softmax_weighted_sum(parts),
    }

  def pyramids(self, feats: NetFeatures) -> tuple[list[jax.Array], ...]:
    """Returns the pyramids of the teacher and the student.

    Args:
      feats: The features of both networks.

    Returns:
      The teacher's smoothed levels, its gated levels, the student's smoothed
      levels and its gated levels, each level [N,h_k,w_k,width] f32.
    """
    pairs = [losses.aligned(s, t) for s, t in base.met(feats, super().pairs())]
    maps_s, maps_t = map(list, zip(*pairs, strict=True))
    settings = (self.dtype, self.bn_group_size)
    lateral_args = (self.version, self.width, self.widened, *settings)
    laterals = Laterals(*lateral_args, name='laterals')
    laterals_t = laterals
    if [t.shape[-1] for t in maps_t] != [s.shape[-1] for s in maps_s]:
      laterals_t = Laterals(*lateral_args, name='teacher_laterals')
    if self.version == 'A':
      smooth: Any = layers.torch_conv(
        self.width, 3, 9 * self.width, dtype=self.dtype, name='smooth'
      )
    else:
      smooth = ConvNormLeaky(self.width, *settings, name='smooth')
    gate = SqueezeExcite(self.se_reduction, self.dtype, name='gate')
    # The networks pass separately, the teacher first, because version B's
    # BatchNorm takes each network's statistics separately in the released code.
    levels: list[list[jax.Array]] = []
    for lateral, maps in ((laterals_t, maps_t), (laterals, maps_s)):
      if self.version == 'A':
        smoothed = _smoothed(lateral, smooth, maps)
      else:
        smoothed = [smooth(level) for level in top_down(lateral(maps))]
      gated = [gate(level) for level in smoothed]
      levels += [
        [x.astype(jnp.float32) for x in part] for part in (smoothed, gated)
      ]
    if self.stop_grad_teacher_pyramid:
      levels[:2] = jax.lax.stop_gradient(levels[:2])
    squares = jnp.stack([jnp.square(level).mean() for level in levels[0]])
    self.measure('teacher_pyramid_rms', jnp.sqrt(squares.mean()))
    return tuple(levels)

  def pairs(self) -> tuple[tuple[str, str], ...]:
    """Returns the pairs of the pyramid's taps, and the pair of logits."""
    return (*super().pairs(), ('logits', 'logits'))
