"""Tf-FD: a network's features teach each other, across and within layers.

Source: Li, ECCV 2022; Teacher-free-Distillation 3427f98 (train_kd.py), which we
follow: terms are means over pairs and over maps, and the salient half is not
detached. With a teacher's logits the method is the paper's "KD + Tf-FD".
"""

from typing import ClassVar

import jax.numpy as jnp

from kd_jax import errors, losses
from kd_jax.features import Batch, NetFeatures, Terms
from kd_jax.methods import base


class Method(base.WithTeacher):
  """The method Tf-FD, teacher-free feature distillation.

  Attributes:
    taps: The maps, shallow first, each with an even number of channels.
    detach_salient: Whether the salient half of a map's channels is a fixed
      target, which does not learn.
    with_kd: Whether there is a teacher, whose logits the term 'kd' uses.
  """

  is_dense: ClassVar = True

  taps: tuple[str, ...] = ('stage1', 'stage2', 'stage3')
  detach_salient: bool = False
  with_kd: bool = False

  def __post_init__(self):
    """Raises UsageError where there are fewer than two taps."""
    base.at_least(self.taps, 2, 'taps')
    super().__post_init__()

  @property
  def terms(self) -> dict[str, tuple[str, ...]]:  # type: ignore[override]
    """The terms 'ce', 'inter' and 'intra', and 'kd' where `with_kd` is true."""
    names = ('ce', 'inter', 'intra', *(('kd',) if self.with_kd else ()))
    return dict.fromkeys(names, ('student',))

  @property
  def teachers(self) -> tuple[str, ...]:  # type: ignore[override]
    """The teacher where `with_kd` is true, otherwise none."""
    return ('teacher',) if self.with_kd else ()

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Returns every term of `terms`: means over pairs and over maps."""
    student = feats['student']
    maps = [student[name] for name in self.taps]
    for name, x in zip(self.taps, maps, strict=True):
      if x.shape[-1] % 2:
        raise errors.ArgumentError(
          f'taps={self.taps}: {name} has {x.shape[-1]} channels, an odd '
          'number, which has no two halves; choose other taps'
        )
    intra = [
      losses.intra_layer(x, detach_salient=self.detach_salient) for x in maps
    ]
    if self.with_kd:
      standard = self.standard(feats, batch)
    else:
      standard = {'ce': self.task.supervised(student, batch)}
    return {
      **standard,
      'inter': losses.inter_layers(maps),
      'intra': jnp.stack(intra).mean(),
    }
