"""Tf-FD: features of one network teach each other, across and within layers.

Source: Li, ECCV 2022; Teacher-free-Distillation 3427f98 (train_kd.py), which we
follow: means over pairs and over maps, the salient half not detached.
"""

from typing import ClassVar

import jax.numpy as jnp

from kd_jax import errors, losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.Method):
  """Teacher-free feature distillation, both halves, with CE.

  Attributes:
    taps: the maps, shallow first, each with an even number of channels.
    detach_salient: the salient half of a map's channels does not move.
  """

  terms: ClassVar = {
    'ce': ('student',),
    'inter': ('student',),
    'intra': ('student',),
  }
  teachers: ClassVar = ()

  taps: tuple[str, ...] = ('stage1', 'stage2', 'stage3')
  detach_salient: bool = False

  def __post_init__(self):
    """Raises UsageError where there is no pair of maps."""
    base.at_least(self.taps, 2, 'tf_fd: taps')
    super().__post_init__()

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Terms: 'ce', 'inter', 'intra' (means over pairs and over maps)."""
    student = feats['student']
    maps = [student[name] for name in self.taps]
    for name, x in zip(self.taps, maps, strict=True):
      if x.shape[-1] % 2:
        raise errors.UsageError(
          f'tf_fd: {name} has {x.shape[-1]} channels, an odd number, which has '
          'no two halves; choose other taps (config.method_args.taps)'
        )
    intra = [
      losses.intra_layer(x, detach_salient=self.detach_salient) for x in maps
    ]
    return {
      'ce': losses.cross_entropy(student['logits'], batch['label']),
      'inter': losses.inter_layers(maps),
      'intra': jnp.stack(intra).mean(),
    }
