"""What a distillation method is, and methods by name."""

import dataclasses
import importlib
import pkgutil
from typing import Any, ClassVar

import flax.linen as nn
import jax

from kd_jax import errors, methods
from kd_jax.features import Batch, NetFeatures, Terms


class Method(nn.Module):
  """A pure loss over the features of the networks.

  A method is a Linen module: it owns its adapters (connectors, projectors,
  pyramids), whose widths are inferred from the features at `init`, and its
  `apply` depends on nothing but its arguments. `stop_gradient` says who learns
  from whom.

  Attributes:
    terms: for each loss term, the parameter groups that it trains: network
      names and 'method' (the adapters).
    teachers: the frozen networks whose features it reads.
  """

  terms: ClassVar[dict[str, tuple[str, ...]]] = {}
  teachers: ClassVar[tuple[str, ...]] = ('teacher',)

  def __call__(self, feats: NetFeatures, batch: Batch) -> Terms:
    """Every term of `terms`, unweighted, each a scalar f32."""
    raise NotImplementedError

  def predict(self, feats: NetFeatures) -> dict[str, jax.Array]:
    """Logits [N,K] by name; the first is the deployed network."""
    return {'student': feats['student']['logits']}

  def measure(self, name: str, value: jax.Array) -> None:
    """Logs a scalar that is no loss, as 'method/<name>'."""
    self.sow(
      'metrics',
      name,
      value,
      init_fn=lambda: None,
      reduce_fn=lambda _, new: new,
    )

  def pairs(self) -> tuple[tuple[str, str], ...]:
    """Which teacher tap meets which student tap."""
    return ()


def names() -> list[str]:
  """Every method there is: the modules of `kd_jax.methods` but this one."""
  found = (m.name for m in pkgutil.iter_modules(methods.__path__))
  return sorted(name for name in found if name != 'base')


def method_class(name: str) -> type[Method]:
  """The class `Method` of the module `kd_jax.methods.<name>`.

  A name with a dot is the import path of a module of the user's own.

  Raises:
    UsageError: for an unknown name.
  """
  if '.' in name:
    return errors.imported(name, 'Method')
  if name not in names():
    raise errors.unknown('method', name, names())
  return importlib.import_module(f'kd_jax.methods.{name}').Method


def fields(cls: type[Method]) -> set[str]:
  """The constructor arguments of a method's class."""
  own = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
  return own - {'parent', 'name'}


def make(name: str, **kwargs: Any) -> Method:
  """Makes the method called `name`.

  Raises:
    UsageError: for an unknown name or argument.
  """
  cls = method_class(name)
  for argument in kwargs:
    if argument not in fields(cls):
      kind = f'argument of method {name}:'
      raise errors.unknown(kind, argument, fields(cls))
  return cls(**kwargs)


def at_least(names: tuple[Any, ...], count: int, what: str) -> None:
  """Raises UsageError where there are fewer than `count` names."""
  if len(names) < count:
    raise errors.UsageError(f'{what}={names}: give {count} or more')
