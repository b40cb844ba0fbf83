"""FFSD: students teach each other, and their fused features teach a leader.

Two or more common students and one leader train from scratch. They have one
architecture in the paper; here the networks may differ as long as their maps
have the same heights and widths, and the last maps of the common students as
many channels. The fusion of the common students' last maps teaches the leader.
Decoders enlarge deep features to the size of shallow features, which learn from
them (self-distillation). Attention targets are shifted so that the common
students stay different. Only the leader is deployed.

Source: Li et al., "Distilling a Powerful Student Model via Online Knowledge
Distillation", TNNLS 2022; FFSD d5cfda9, which we follow. The released
code makes several backward passes; here they are a single gradient, which is
equivalent because every term between networks is detached.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors, losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base
from kd_jax.models import layers


class Separable(nn.Module):
  """A depthwise 3x3 and a 1x1 convolution, each with BatchNorm and ReLU.

  Attributes:
    features: The output channels.
    bn_group_size: See `layers.BatchNorm.group_size`.
  """

  features: int
  bn_group_size: int = 0

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps x [N,h,w,c] f32 to [N,h,w,features] f32, in training mode."""
    bn1, bn2 = (
      layers.BatchNorm(group_size=self.bn_group_size, name=name)
      for name in ('bn1', 'bn2')
    )
    x = layers.Conv(x.shape[-1], 3, groups=x.shape[-1], name='conv1')(x)
    x = nn.relu(bn1(x, train=True))
    x = layers.Conv(self.features, 1, name='conv2')(x)
    return nn.relu(bn2(x, train=True))


class Fusion(nn.Module):
  """A fusion of the common students' maps, which ends in a classifier.

  Attributes:
    num_classes: K, the number of classes.
    bn_group_size: See `layers.BatchNorm.group_size`.
  """

  num_classes: int
  bn_group_size: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, features: int) -> tuple[jax.Array, ...]:
    """Returns the fused map and its logits.

    Args:
      x: The maps of the M common students, concatenated, [N,h,w,M*c] f32.
      features: The channels of the fused map.

    Returns:
      The fused map, [N,h,w,features] f32, and the logits, [N,K] f32.
    """
    fused = Separable(features, self.bn_group_size, name='fuse')(x)
    pooled = fused.mean(axis=(1, 2))
    return fused, layers.Linear(self.num_classes, name='fc')(pooled)


class Decoder(nn.Module):
  """A decoder that enlarges a deep map step by step to shallower sizes.

  Attributes:
    widths: The output channels of each block, which doubles height and width.
    bn_group_size: See `layers.BatchNorm.group_size`.
  """

  widths: Sequence[int]
  bn_group_size: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
    """Returns the output of every block.

    Args:
      x: The deep map, [N,h,w,c] f32.
      train: Whether BatchNorm uses batch statistics.

    Returns:
      The blocks' maps, [N,H,W,width] f32, the smallest first.
    """
    maps = []
    for i, width in enumerate(self.widths):
      x = layers.ConvTranspose(
        width,
        3,
        padding=1,
        output_padding=1,
        use_bias=False,
        # torch computes a transposed kernel's fan-in from its second axis,
        # the output channels.
        kernel_init=nn.initializers.variance_scaling(
          1 / 3, 'fan_out', 'uniform'
        ),
        name=f'conv{i}',
      )(x)
      norm = layers.BatchNorm(group_size=self.bn_group_size, name=f'bn{i}')
      x = nn.relu(norm(x, train=train))
      maps.append(x)
    return maps


class Method(base.Method):
  """The method FFSD, with M common students, a leader and no teacher.

  Attributes:
    num_classes: K, the number of classes.
    common_students: M, the number of common students, at least 2.
    taps: The maps, shallow first; each has half the height and width of the map
      before it. The last is 'stage3_post' for a WideResNet or a DenseNet.
    temperature: The temperature T of all divergences of logits.
    bn_group_size: The BatchNorm group size of fusion and decoders; see
      `layers.BatchNorm.group_size`.
  """

  teachers = ()
  reads_last_map: ClassVar[bool] = True

  num_classes: int = 0
  common_students: int = 2
  taps: tuple[str, ...] = ('stage1', 'stage2', 'stage3')
  temperature: float = 2.0
  bn_group_size: int = 0

  def __post_init__(self):
    """Raises UsageError for fewer than two taps."""
    base.at_least(self.taps, 2, 'taps')
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
    """The parameter groups that each term trains.

    'ce' trains all networks, 'mutual' the common students, and 'diversity' and
    'common_sd' all common students but the first. 'fusion_ce' and 'fusion_kd'
    train the fusion. 'leader_kd', 'fusion' (attention of the fused map),
    'trans_fusion' (attention of all maps) and 'leader_sd' train the leader;
    'trans_fusion' also trains the leader's transformation. 'decoder' trains all
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
    """Returns every term of `terms`, summed over the networks it trains."""
    common = [feats[name] for name in self.common]
    leader, label = feats['leader'], batch['label']
    maps = {
      network: [feats[network][tap] for tap in self.taps]
      for network in self.students
    }
    self._check(feats, maps)
    stop = jax.lax.stop_gradient
    joined = stop(
      jnp.concatenate([maps[network][-1] for network in self.common], axis=-1)
    )
    last = maps['leader'][-1]
    group_size = self.bn_group_size
    fusion = Fusion(self.num_classes, group_size, name='fusion')
    fused, fused_logits = fusion(joined, last.shape[-1])
    # A module called trans_fusion would fall under the fusion's weight decay.
    widened = Separable(joined.shape[-1], group_size, name='leader_trans')(last)
    mean_logits = jnp.stack([f['logits'] for f in common]).mean(axis=0)

    # The decoders first make targets from their running statistics; the calls
    # with train=True, which update these statistics, must come afterwards.
    decoders = {
      network: Decoder(
        [x.shape[-1] for x in maps[network][-2::-1]],
        group_size,
        name=f'decoder_{network}',
      )
      for network in ('leader', *self.common[1:])
    }
    leader_sd = _self_distillation(decoders['leader'], maps['leader'], fused)
    diversity, common_sd, decoder = [], [], []
    for previous_name, name in zip(self.common, self.common[1:], strict=False):
      previous = stop(maps[previous_name][-1])
      diversity.append(losses.diversity(maps[name][-1], previous))
      shifted = losses.shifted_map(previous)
      common_sd.append(_self_distillation(decoders[name], maps[name], shifted))
    for name, module in decoders.items():
      detached = [stop(x) for x in maps[name]]
      for decoded, target in zip(
        module(detached[-1], train=True), detached[-2::-1], strict=True
      ):
        decoder.append(losses.unit_distance(decoded, target))
        decoder.append(losses.attention_transfer(decoded, target))

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
      'fusion_kd': kl(fused_logits, mean_logits, t),
      'leader_kd': kl(leader['logits'], fused_logits, t),
      'fusion': losses.attention_transfer(last, stop(fused)),
      'trans_fusion': losses.attention_transfer(widened, joined),
      'leader_sd': leader_sd,
      'decoder': _sum(decoder),
    }

  def predict(self, feats: NetFeatures) -> dict[str, jax.Array]:
    """Returns the leader's logits, then those of the common students."""
    return {name: feats[name]['logits'] for name in self.students}

  def _check(self, feats: NetFeatures, maps: dict[str, Any]) -> None:
    """Checks that every map is twice as large as the next, in all students.

    Args:
      feats: The features of every network.
      maps: The maps of each network, shallow first.

    Raises:
      UsageError: A tap is not a map, or a size does not fit.
    """
    base.check_last(feats, 'leader', self.taps[-1], 'taps')
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
        raise errors.ArgumentError(
          f'taps={self.taps}: {b} {large[1:]} must be a map with twice the '
          f'height and width of {a} {small[1:]}; choose other taps'
        )
    self._check_alike(maps)

  def _check_alike(self, maps: dict[str, Any]) -> None:
    """Checks that students of different networks can be fused and compared."""
    for network in self.common:
      for tap, ours, leaders in zip(
        self.taps, maps[network], maps['leader'], strict=True
      ):
        if ours.shape[:-1] != leaders.shape[:-1]:
          raise errors.ArgumentError(
            f'taps={self.taps}: {tap} of {network} {ours.shape[1:]} must have '
            f'the height and width of that of the leader {leaders.shape[1:]}; '
            'choose other taps or networks'
          )
    widths = {network: maps[network][-1].shape[-1] for network in self.common}
    if len({*widths.values()}) > 1:
      raise errors.ArgumentError(
        f'taps={self.taps}: {self.taps[-1]} of the common students has '
        f'{widths} channels, and the decoder of each reads the map of the one '
        'before it: give them networks with as many channels there'
      )


def _self_distillation(
  decoder: Decoder, maps: Sequence[jax.Array], source: jax.Array
) -> jax.Array:
  """Returns the self-distillation loss of a network's shallow maps.

  Args:
    decoder: The network's decoder.
    maps: The network's maps, shallow first, each [N,H,W,C] f32; all but the
      last learn.
    source: The map from which the decoder makes the targets, [N,h,w,c] f32.

  Returns:
    The sum of attention-transfer losses over the shallow maps, [] f32.
  """
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
  """Returns the sum of one or more scalars, [] f32."""
  return jnp.stack(list(values)).sum()
