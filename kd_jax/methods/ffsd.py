"""FFSD: students teach each other, their fused features teach a leader.

Two or more common students and one leader of the same architecture train from
scratch. A fusion of the common students' last maps is the leader's teacher;
decoders carry deep features back to the size of shallow ones, which learn from
them (self-distillation); attention targets are shifted so that the common
students stay different. The leader alone is deployed.

Source: Li et al., "Distilling a Powerful Student Model via Online Knowledge
Distillation", TNNLS 2022; FFSD d5cfda9, which we follow. All its backward
passes are one gradient here: every term between networks is detached, so they
commute.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors, losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base
from kd_jax.models import layers


class Separable(nn.Module):
  """Depthwise 3x3 and 1x1 convolution, each with BatchNorm and ReLU."""

  features: int
  bn_group_size: int = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps [N,h,w,c] to [N,h,w,features], in training mode."""
    bn1, bn2 = (
      layers.BatchNorm(group_size=self.bn_group_size, name=name)
      for name in ('bn1', 'bn2')
    )
    x = layers.Conv(x.shape[-1], 3, groups=x.shape[-1], name='conv1')(x)
    x = nn.relu(bn1(x, train=True))
    x = layers.Conv(self.features, 1, name='conv2')(x)
    return nn.relu(bn2(x, train=True))


class Fusion(nn.Module):
  """Fuses the common students' maps; the fused map has a classifier."""

  num_classes: int
  bn_group_size: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, features: int) -> tuple[jax.Array, ...]:
    """[N,h,w,M*c] to the map [N,h,w,features] and logits [N,K]."""
    fused = Separable(features, self.bn_group_size, name='fuse')(x)
    pooled = fused.mean(axis=(1, 2))
    return fused, layers.Linear(self.num_classes, name='fc')(pooled)


class Decoder(nn.Module):
  """Enlarges a deep map step by step to the size of shallower ones.

  Attributes:
    widths: channels of each block; a block doubles the sides.
    bn_group_size: see `layers.BatchNorm.group_size`.
  """

  widths: Sequence[int]
  bn_group_size: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
    """Maps [N,h,w,c] to one map for each block, the smallest first."""
    out = []
    for i, width in enumerate(self.widths):
      x = layers.ConvTranspose(
        width,
        3,
        padding=1,
        output_padding=1,
        use_bias=False,
        # torch takes a transposed kernel's second axis, its output, for fan-in
        kernel_init=nn.initializers.variance_scaling(
          1 / 3, 'fan_out', 'uniform'
        ),
        name=f'conv{i}',
      )(x)
      norm = layers.BatchNorm(group_size=self.bn_group_size, name=f'bn{i}')
      x = nn.relu(norm(x, train=train))
      out.append(x)
    return out


class Method(base.Method):
  """FFSD: M common students and a leader; no teacher.

  Attributes:
    num_classes: K.
    common_students: how many (M).
    taps: the maps, shallow first; each has half the height and width of the
      one before. The original's last is 'stage3_post' of a WideResNet or a
      DenseNet.
    temperature: T of all divergences of logits.
    bn_group_size: of fusion and decoders; see `layers.BatchNorm.group_size`.
  """

  teachers = ()

  num_classes: int = 0
  common_students: int = 2
  taps: tuple[str, ...] = ('stage1', 'stage2', 'stage3')
  temperature: float = 2.0
  bn_group_size: int = 0

  def __post_init__(self):
    """Raises UsageError for fewer than two students, or two taps."""
    base.at_least(self.taps, 2, 'config.method_args.taps')
    if self.common_students < 2:
      raise errors.UsageError(
        f'config.method_args.common_students={self.common_students}: give 2 or '
        'more'
      )
    super().__post_init__()

  @property
  def common(self) -> tuple[str, ...]:
    """The names of the common students."""
    return tuple(f'student_{i}' for i in range(self.common_students))

  @property
  def students(self) -> tuple[str, ...]:  # type: ignore[override]
    """The leader and the common students."""
    return ('leader', *self.common)

  @property
  def terms(self) -> dict[str, tuple[str, ...]]:  # type: ignore[override]
    """Each term, and whom it trains.

    'ce' of all networks; 'mutual' among common students; 'diversity' and
    'common_sd' of all common students but the first; of the fusion 'fusion_ce'
    and 'fusion_kd'; of the leader 'leader_kd', 'fusion' (attention of the fused
    map), 'trans_fusion' (attention of all maps), 'leader_sd'; 'decoder' of all
    decoders.
    """
    return {
      'ce': self.students,
      'mutual': self.common,
      'diversity': self.common[1:],
      'common_sd': self.common[1:],
      'fusion_ce': ('method',),
      'fusion_kd': ('method',),
      'leader_kd': ('leader',),
      'fusion': ('leader',),
      'trans_fusion': ('leader', 'method'),
      'leader_sd': ('leader',),
      'decoder': ('method',),
    }

  @nn.compact
  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Terms: see `terms`; each is summed over the networks it trains."""
    common = [feats[name] for name in self.common]
    leader, label = feats['leader'], batch['label']
    maps = {n: [feats[n][tap] for tap in self.taps] for n in self.students}
    self._check(maps)
    stop = jax.lax.stop_gradient
    joined = stop(jnp.concatenate([maps[n][-1] for n in self.common], axis=-1))
    last = maps['leader'][-1]
    group = self.bn_group_size
    fusion = Fusion(self.num_classes, group, name='fusion')
    fused, fused_logits = fusion(joined, last.shape[-1])
    # A module called trans_fusion would fall under the fusion's weight decay.
    spread = Separable(joined.shape[-1], group, name='leader_trans')(last)
    mean = jnp.stack([f['logits'] for f in common]).mean(axis=0)

    # Decoders judge with running statistics before training moves these.
    widths = [x.shape[-1] for x in maps['leader'][-2::-1]]
    decoders = {
      n: Decoder(widths, group, name=f'decoder_{n}')
      for n in ('leader', *self.common[1:])
    }
    leader_sd = _self_distillation(decoders['leader'], maps['leader'], fused)
    diversity, common_sd, decoder = [], [], []
    for before, name in zip(self.common, self.common[1:], strict=False):
      previous = stop(maps[before][-1])
      diversity.append(losses.diversity(maps[name][-1], previous))
      shifted = losses.shifted_map(previous)
      common_sd.append(_self_distillation(decoders[name], maps[name], shifted))
    for name, module in decoders.items():
      own = [stop(x) for x in maps[name]]
      for out, want in zip(
        module(own[-1], train=True), own[-2::-1], strict=True
      ):
        decoder.append(losses.unit_distance(out, want))
        decoder.append(losses.attention_transfer(out, want))

    logits = [f['logits'] for f in (*common, leader)]
    kl, t = losses.kl, self.temperature
    return {
      'ce': _sum([losses.cross_entropy(z, label) for z in logits]),
      'mutual': _sum(
        [
          kl(a, b, t) / (len(common) - 1)
          for i, a in enumerate(logits[:-1])
          for j, b in enumerate(logits[:-1])
          if i != j
        ]
      ),
      'diversity': _sum(diversity),
      'common_sd': _sum(common_sd),
      'fusion_ce': losses.cross_entropy(fused_logits, label),
      'fusion_kd': kl(fused_logits, mean, t),
      'leader_kd': kl(leader['logits'], fused_logits, t),
      'fusion': losses.attention_transfer(last, stop(fused)),
      'trans_fusion': losses.attention_transfer(spread, joined),
      'leader_sd': leader_sd,
      'decoder': _sum(decoder),
    }

  def predict(self, feats: NetFeatures) -> dict[str, jax.Array]:
    """The leader's logits first, then those of the common students."""
    return {name: feats[name]['logits'] for name in self.students}

  def _check(self, maps: dict[str, Any]) -> None:
    shapes = [x.shape for x in maps['leader']]
    for (a, small), (b, large) in zip(
      zip(self.taps[::-1], shapes[::-1], strict=True),
      zip(self.taps[-2::-1], shapes[-2::-1], strict=True),
      strict=False,
    ):
      fits = len(small) == len(large) == 4 and all(
        2 * small[i] == large[i] for i in (1, 2)
      )
      if not fits:
        raise errors.UsageError(
          f'ffsd: {b} {large[1:]} must be a map with twice the height and '
          f'width of {a} {small[1:]}; choose other config.method_args.taps'
        )


def _self_distillation(
  decoder: Decoder, maps: Sequence[jax.Array], source: jax.Array
) -> jax.Array:
  """Shallow maps' attention against what the decoder makes of `source`."""
  targets = jax.lax.stop_gradient(
    decoder(jax.lax.stop_gradient(source), train=False)
  )
  return _sum(
    [
      losses.attention_transfer(x, target)
      for x, target in zip(maps[-2::-1], targets, strict=True)
    ]
  )


def _sum(values: Sequence[jax.Array]) -> jax.Array:
  return jnp.stack(list(values)).sum()
