"""Networks by name."""

from collections.abc import Callable
import dataclasses
from typing import Any

import flax.linen as nn

from kd_jax import errors
from kd_jax.models import resnet

NETWORKS: dict[str, Callable[..., nn.Module]] = {**resnet.NETWORKS}


def make(name: str, num_classes: int, **kwargs: Any) -> nn.Module:
  """Makes the network called `name`.

  Args:
    name: one of `NETWORKS`, or 'package.module:Class' for a network of the
      user's own.
    num_classes: K.
    **kwargs: fields of the network's class that replace its defaults.

  Raises:
    UsageError: for an unknown name or field.
  """
  factory: Callable[..., nn.Module]
  if ':' in name:
    factory = errors.imported(*name.split(':', 1))
  elif name in NETWORKS:
    factory = NETWORKS[name]
  else:
    raise errors.unknown('network', name, NETWORKS)
  network_class: Any = getattr(factory, 'func', factory)
  if not dataclasses.is_dataclass(network_class):
    raise errors.UsageError(f'{name} is no Flax module')
  fields = {f.name for f in dataclasses.fields(network_class)}
  fields -= {'parent', 'name'}
  for field in kwargs:
    if field not in fields:
      raise errors.unknown(f'argument of network {name}:', field, fields)
  return factory(num_classes=num_classes, **kwargs)
