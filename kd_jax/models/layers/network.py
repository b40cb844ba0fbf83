"""What all networks share: fields, taps and the classifier."""

from collections.abc import Callable
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors
from kd_jax.features import tap
from kd_jax.models.layers import batch_norm as batch_norm_lib
from kd_jax.models.layers import conv


class Network(nn.Module, kw_only=True):
  """What the image classifiers share: images [N,H,W,3] to logits [N,K] f32.

  Taps of every network: 'stem', 'stage{i}' and 'stage{i}_pre' for each stage,
  'pooled', 'logits'; and 'stage{i}_post' of the last stage where another map
  than 'stage{i}' is pooled.

  Attributes:
    num_classes: K.
    dtype: what it computes in; parameters, statistics and taps are float32.
    batch_norm: see `BatchNorm.mode`.
    bn_group_size: see `BatchNorm.group_size`.
  """

  num_classes: int
  dtype: jnp.dtype = jnp.float32
  batch_norm: batch_norm_lib.BatchNormMode = 'auto'
  bn_group_size: int = 0

  def __post_init__(self):
    """Raises UsageError for an unknown mode."""
    batch_norm_lib.check_mode(self.batch_norm)
    super().__post_init__()

  @property
  def norm(self) -> Callable[..., batch_norm_lib.BatchNorm]:
    """Makes a BatchNorm in the network's mode."""
    return functools.partial(
      batch_norm_lib.BatchNorm,
      mode=self.batch_norm,
      group_size=self.bn_group_size,
    )

  def classify(
    self,
    x: jax.Array,
    kernel_init: nn.initializers.Initializer = conv.torch_init,
    bias_init: nn.initializers.Initializer | None = None,
  ) -> jax.Array:
    """The mean of [N,h,w,c] over space, or [N,c], and 'fc', both tapped."""
    x = x.astype(jnp.float32)
    pooled = tap(self, 'pooled', x.mean(axis=(1, 2)) if x.ndim == 4 else x)
    logits = conv.Linear(
      self.num_classes, self.dtype, kernel_init, bias_init, name='fc'
    )(pooled)
    return tap(self, 'logits', logits.astype(jnp.float32))


def check_choice(kind: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises UsageError where a network's field is none of its choices."""
  if value not in choices:
    raise errors.unknown(kind, value, choices)
