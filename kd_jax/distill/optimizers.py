"""The optimizers of optax by name, with their arguments and weight decay.

Gradients, parameters and updates are pytrees of arrays of equal shapes, f32.
"""

from collections.abc import Callable, Mapping
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from kd_jax import domains, errors

Rate = Callable[[jax.Array], jax.Array]

COUPLED = "coupled: added to the gradient, as PyTorch's"
DECOUPLED = 'decoupled: the rate times the decay, beside the update'
TRUSTED = 'within the layer: added before the trust ratio'
NORMALISED = 'added to the normalised gradient, before the momentum'
NONE = 'none'


class Kind(NamedTuple):
  """An optimizer.

  Attributes:
    decay: What the weight decay is, in words.
    arguments: Arguments of optax's function that the weight decay is given to.
  """

  decay: str
  arguments: tuple[str, ...] = ()


_OWN = ('weight_decay',)
# Those of PyTorch, whose momentum is `config.optimizer.momentum`.
TORCH = {
  'sgd': Kind(COUPLED),
  'adam': Kind(COUPLED),
  'adamw': Kind(DECOUPLED, _OWN),
  'frozen': Kind(NONE),
}
KINDS: dict[str, Kind] = {
  **TORCH,
  **dict.fromkeys(
    ('adabelief', 'adadelta', 'adagrad', 'adamax', 'amsgrad', 'nadam',
     'radam', 'rmsprop', 'sign_sgd', 'yogi'),
    Kind(COUPLED),
  ),
  **dict.fromkeys(('adamaxw', 'adan', 'lion', 'nadamw'), Kind(DECOUPLED, _OWN)),
  'adafactor': Kind(DECOUPLED),
  'lamb': Kind(TRUSTED, _OWN),
  'lars': Kind(TRUSTED, _OWN),
  'muon': Kind(DECOUPLED, ('weight_decay', 'adam_weight_decay')),
  'novograd': Kind(NORMALISED, _OWN),
}  # fmt: skip
# Of optax's arguments, those that have a key of their own.
_KEYS = ('learning_rate', 'weight_decay', 'weight_decay_rate')


def arguments(name: str) -> dict[str, Any]:
  """Returns the arguments that an optimizer takes, with their defaults.

  They are the numbers and switches of optax's function; None is a number that
  is off.

  Args:
    name: A name in `KINDS`.
  """
  if name in ('sgd', 'frozen'):  # whose fields are keys of their own
    return {}
  parameters = inspect.signature(_function(name)).parameters.values()
  taken = {*_KEYS, *KINDS[name].arguments}
  return {
    p.name: p.default
    for p in parameters
    if p.name in domains.OPTIMIZERS and p.name not in taken
  }


def check(name: str, args: Mapping[str, Any]) -> None:
  """Checks the arguments of an optimizer.

  Raises:
    UsageError: The optimizer or an argument is unknown, or a value is outside
      of its domain.
  """
  if name not in KINDS:
    raise errors.unknown('optimizer', name, KINDS)
  known = arguments(name)
  for key, value in args.items():
    if key not in known:
      raise errors.unknown(f'argument of optimizer {name}:', key, known)
    if isinstance(known[key], bool):
      if not isinstance(value, bool):
        raise errors.ArgumentError(f'{key}={value!r}: give True or False')
    elif value is not None or known[key] is not None:
      domains.check(key, value, domains.OPTIMIZERS[key])


def make(
  name: str,
  rate: Rate,
  weight_decay: float = 0.0,
  args: Mapping[str, Any] | None = None,
  adapts: bool = True,
) -> optax.GradientTransformation:
  """Returns an optimizer of optax.

  Args:
    name: A name in `KINDS` that is not in `TORCH`.
    rate: The schedule of the learning rate.
    weight_decay: The factor of the weight decay; see `Kind.decay`.
    args: Further arguments; see `arguments`.
    adapts: Whether LAMB and LARS scale each parameter's update by its norm. If
      not, LAMB is Adam and LARS is SGD with momentum.

  Raises:
    UsageError: An argument is unknown, or a value is not allowed.
  """
  fields = dict(args or {})
  check(name, fields)
  if name == 'lamb' and not adapts:
    adam = optax.adam(rate, **{'eps': arguments(name)['eps'], **fields})
    return optax.chain(adam, decoupled(rate, weight_decay))
  if name == 'lars' and not adapts:
    fields['trust_ratio_mask'] = False
  kind = KINDS[name]
  fields |= dict.fromkeys(kind.arguments, weight_decay)
  tx = _function(name)(rate, **fields)
  if kind.arguments:
    return tx
  if kind.decay == DECOUPLED:
    return optax.chain(tx, decoupled(rate, weight_decay))
  return optax.chain(optax.add_decayed_weights(weight_decay), tx)


def decoupled(rate: Rate, weight_decay: float) -> optax.GradientTransformation:
  """Returns what subtracts rate * weight_decay * parameter from an update."""

  def init(params):
    del params
    return jnp.zeros((), jnp.int32)

  def update(updates, count, params=None):
    factor = rate(count) * weight_decay
    updates = jax.tree.map(lambda u, p: u - factor * p, updates, params)
    return updates, count + 1

  return optax.GradientTransformation(init, update)


def _function(name: str) -> Callable[..., optax.GradientTransformation]:
  return getattr(optax.contrib if name == 'muon' else optax, name)
