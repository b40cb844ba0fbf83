"""The fields, taps and classifier that all networks share."""

from collections.abc import Callable
import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from kd_jax import errors
from kd_jax.features import tap
from kd_jax.models.layers import batch_norm as batch_norm_lib
from kd_jax.models.layers import conv


class Network(nn.Module, kw_only=True):
  """The base of the networks: images [N,H,W,3] to logits, [N,K] f32.

  Every network has the taps 'stem', 'stage{i}' and 'stage{i}_pre' for each
  stage, 'pooled' and 'logits'; and 'stage{i}_post' of the last stage if the
  pooled map is not 'stage{i}'.

  Attributes:
    task: The task that the network is for, as `tasks.find` names it.
    num_classes: The number of classes, K.
    dtype: The dtype of the computation; parameters, statistics and taps are
      float32.
    batch_norm: See `BatchNorm.mode`.
    bn_group_size: See `BatchNorm.group_size`.
  """

  task: ClassVar[str] = 'classification'

  num_classes: int
  dtype: jnp.dtype = jnp.float32
  batch_norm: batch_norm_lib.BatchNormMode = 'auto'
  bn_group_size: int = 0

  def __post_init__(self):
    """Raises UsageError if the BatchNorm mode is unknown."""
    batch_norm_lib.check_mode(self.batch_norm)
    super().__post_init__()

  @property
  def norm(self) -> Callable[..., batch_norm_lib.BatchNorm]:
    """Returns the constructor of a BatchNorm in the network's mode.

    Its sums are those about the running mean. What random kernels make of
    standardised images has means that are small beside the deviations.
    """
    return functools.partial(
      batch_norm_lib.BatchNorm,
      mode=self.batch_norm,
      group_size=self.bn_group_size,
      shift='running',
    )

  def classify(
    self,
    x: jax.Array,
    kernel_init: nn.initializers.Initializer = conv.torch_init,
    bias_init: nn.initializers.Initializer | None = None,
  ) -> jax.Array:
    """Pools and classifies a map, and taps 'pooled' and 'logits'.

    Args:
      x: The last map [N,h,w,C], which is averaged over space, or the pooled
        features [N,C].
      kernel_init: Initialises the kernel of the layer 'fc'.
      bias_init: Initialises its bias; None is torch's default.

    Returns:
      Logits [N,K] f32.
    """
    x = x.astype(jnp.float32)
    pooled = tap(self, 'pooled', x.mean(axis=(1, 2)) if x.ndim == 4 else x)
    logits = conv.Linear(
      self.num_classes, self.dtype, kernel_init, bias_init, name='fc'
    )(pooled)
    return tap(self, 'logits', logits.astype(jnp.float32))


def check_choice(kind: str, value: str, choices: tuple[str, ...]) -> None:
  """Raises UsageError if a field's value is not among its choices.

  Args:
    kind: The name of the field, for the message.
    value: The value to check.
    choices: The known values.
  """
  if value not in choices:
    raise errors.unknown(kind, value, choices)
