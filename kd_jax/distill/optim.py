"""Schedules in epochs, and optimizers by parameter path."""

from collections.abc import Callable, Mapping, Sequence
import re
import types
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kd_jax import domains, errors, pytrees
from kd_jax.distill import optimizers

Schedule = Callable[[jax.Array], jax.Array]

# The fields of the specification of each kind of schedule.
KINDS: dict[str, tuple[str, ...]] = {
  'constant': ('value',),
  'step': ('value', 'milestones', 'factor'),
  'cosine': ('value',),
  'poly': ('value', 'power', 'epochs', 'first'),
  'linear': ('start', 'value', 'epochs'),
  'ramp': ('value', 'epochs', 'first'),
  'gaussian_ramp': ('value', 'epochs'),
}
_OPTIONAL = {'cosine': ('floor',)}  # further fields, which are 0 without


def schedule(
  spec: float | Mapping[str, Any],
  steps_per_epoch: int,
  epochs: float,
  name: str = 'schedule',
  signed: bool = False,
) -> Schedule:
  """Returns a function from the step, counted from 0, to the value [] f32.

  The kinds of schedules, with their fields:

    'constant' (value): the value at every step.
    'step' (value, milestones, factor): the value, multiplied by factor at each
      milestone, in epochs. With milestone 150, the 151st epoch is the first
      at the lower value.
    'cosine' (value): from value to 0 at the end of the run, or to 'floor' where
      it is given.
    'poly' (value, power, epochs, first): value * (1 - e / epochs)^power after
      e epochs, counted from first with every step, and 0 from the end on. A
      phase before this one takes its epochs as first.
    'linear' (start, value, epochs): from start to value over the first
      epochs, then constant.
    'ramp' (value, epochs, first): value * min(1, e / epochs) in epoch e,
      counted from first. It is the warm-up of losses in released code, which
      begins at 0 or 1.
    'gaussian_ramp' (value, epochs): value * exp(-5 (1 - e / epochs)^2) in
      epoch e, counted from 1, and value after these epochs (Laine and Aila,
      2017; FFSD).

  Any kind may have 'warmup_epochs': a linear rise to the schedule.

  Args:
    spec: A number, or a mapping with 'kind' and the fields of this kind.
    steps_per_epoch: Steps of an epoch.
    epochs: The length of the run, in epochs.
    name: What its user calls it, for messages.
    signed: Whether its values may be negative.

  Raises:
    UsageError: The kind or a field is unknown, a field is missing, or a value
      has the wrong type or makes no sense.
  """
  is_group = isinstance(spec, Mapping)
  given: dict[str, Any] = (
    dict(spec) if isinstance(spec, Mapping) else {'value': spec}
  )
  kind = given.pop('kind', 'constant')
  if kind not in KINDS:
    raise errors.unknown('schedule', kind, KINDS)
  known = (*KINDS[kind], *_OPTIONAL.get(kind, ()), 'warmup_epochs')
  for key in given:
    if key not in known:
      wrong = f'field of schedule {kind}:'
      raise errors.unknown(wrong, key, (*known, 'kind'))
    place = f'{name}.{key}' if is_group else name
    _check_field(place, key, given[key], signed)
  if missing := [key for key in KINDS[kind] if key not in given]:
    raise errors.UsageError(f'schedule {kind} lacks {", ".join(missing)}')
  fields: dict[str, Any] = {  # of whole numbers, JAX takes none above int32
    key: tuple(map(float, field)) if key == 'milestones' else float(field)
    for key, field in given.items()
  }
  warmup = fields.pop('warmup_epochs', 0.0) * steps_per_epoch

  def value(step: jax.Array) -> jax.Array:
    step = jnp.asarray(step, jnp.float32)
    result = _shape(kind, fields, step, steps_per_epoch, epochs)
    if warmup:
      result = result * jnp.minimum(1.0, (step + 1) / warmup)
    return jnp.asarray(result, jnp.float32)

  return value


def _check_field(name: str, key: str, value: Any, signed: bool) -> None:
  may_be_negative = signed and key in ('value', 'start')
  domain = domains.FINITE if may_be_negative else domains.SCHEDULES[key]
  if (key == 'milestones') != isinstance(value, list | tuple):
    wanted = 'a tuple of epochs' if key == 'milestones' else domain.allowed
    raise errors.ArgumentError(f'{name}={value!r}: give {wanted}')
  domains.check(name, value, domain)


def of_rule(
  common: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns the fields of a rule's optimizer.

  Args:
    common: The fields of the optimizer of all other parameters.
    changes: The fields that the rule changes. A learning rate {'kind':
      'scaled', 'factor': f} is the schedule of `common`, times f.

  Raises:
    UsageError: A scaled learning rate lacks its factor.
  """
  fields = {**common, **changes}
  if 'args' in common and 'name' in changes:  # arguments are those of a name
    fields['args'] = changes.get('args', {})
  rate = changes.get('learning_rate')
  if isinstance(rate, Mapping) and rate.get('kind') == 'scaled':
    factor: Any = rate.get('factor')
    if len(rate) != 2 or not _is_number(factor):
      raise errors.UsageError(
        f'a scaled learning rate {dict(rate)} of an optimizer rule: give a '
        "number 'factor' beside 'kind', and nothing else"
      )
    fields['learning_rate'] = _scaled(common['learning_rate'], factor)
  return fields


def _scaled(spec: float | Mapping[str, Any], factor: float) -> Any:
  if not isinstance(spec, Mapping):
    return spec * factor
  sized = [key for key in ('value', 'start', 'floor') if key in spec]
  return {**spec, **{key: spec[key] * factor for key in sized}}


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool)


def _shape(kind, fields, step, steps_per_epoch, epochs):
  value = fields['value']
  if kind == 'step':
    boundaries = [m * steps_per_epoch for m in fields['milestones']]
    passed = sum((step >= b).astype(jnp.float32) for b in boundaries)
    return value * jnp.asarray(fields['factor'], jnp.float32) ** passed
  if kind == 'cosine':
    done = step / (epochs * steps_per_epoch)
    shape = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0.0, 1.0)))
    if floor := fields.get('floor'):
      return floor + (value - floor) * shape
    return value * 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0.0, 1.0)))
  if kind == 'poly':
    done = (step / steps_per_epoch + fields['first']) / fields['epochs']
    return value * jnp.maximum(0.0, 1 - done) ** fields['power']
  if kind == 'ramp':
    epoch = jnp.floor(step / steps_per_epoch) + fields['first']
    return value * jnp.minimum(1.0, epoch / fields['epochs'])
  if kind == 'gaussian_ramp':
    epoch = jnp.floor(step / steps_per_epoch) + 1
    left = jnp.maximum(0.0, 1 - epoch / fields['epochs'])
    return value * jnp.exp(-5 * jnp.square(left))
  if kind == 'linear':
    done = jnp.clip(step / (fields['epochs'] * steps_per_epoch), 0.0, 1.0)
    return fields['start'] + (value - fields['start']) * done
  return jnp.full_like(step, value)


def transformation(
  name: str,
  learning_rate: Schedule,
  *,
  weight_decay: float = 0.0,
  momentum: float = 0.9,
  nesterov: bool = False,
  reset_momentum_at: Sequence[int] = (),
  args: Mapping[str, Any] = types.MappingProxyType({}),
  adapts: bool = True,
) -> optax.GradientTransformation:
  """Returns an optimizer; 'sgd', 'adam' and 'adamw' are PyTorch's.

  'sgd' and 'adam' add weight_decay * parameter to the gradient of every
  parameter, including BatchNorm and biases, before momentum or moments. 'adamw'
  decouples the weight decay; for the others see `optimizers.KINDS`.

  Args:
    name: A name in `optimizers.KINDS`; 'frozen' is no update at all.
    learning_rate: The schedule of the learning rate.
    weight_decay: The factor of the weight decay.
    momentum: The momentum of 'sgd'.
    nesterov: Whether 'sgd' uses Nesterov momentum.
    reset_momentum_at: Steps before which the momentum of 'sgd' is reset to 0,
      as in released code that makes a new optimizer at a milestone (OFD's).
    args: Further arguments; see `optimizers.arguments`.
    adapts: See `optimizers.make`.

  Raises:
    UsageError: The name or an argument is unknown, or a value is not allowed.
  """
  optimizers.check(name, args)
  decay = optax.add_decayed_weights(weight_decay)
  if name == 'sgd':
    trace = reset_at(optax.trace(momentum, nesterov), reset_momentum_at)
    scale = optax.scale_by_learning_rate(learning_rate)
    return optax.chain(decay, trace, scale)
  if name == 'adam':
    return optax.chain(decay, optax.adam(learning_rate, **args))
  if name == 'adamw':
    return optax.adamw(learning_rate, weight_decay=weight_decay, **args)
  if name == 'frozen':
    return optax.set_to_zero()
  return optimizers.make(name, learning_rate, weight_decay, args, adapts)


def reset_at(
  inner: optax.GradientTransformation, steps: Sequence[int]
) -> optax.GradientTransformation:
  """Returns `inner`, with its state reinitialised before each of `steps`."""
  if not steps:
    return inner

  def init(params):
    return jnp.zeros((), jnp.int32), inner.init(params)

  def update(updates, state, params=None):
    count, old = state
    now = (count == jnp.asarray(steps, jnp.int32)).any()
    fresh = inner.init(updates)
    kept = jax.tree.map(lambda a, b: jnp.where(now, a, b), fresh, old)
    updates, new = inner.update(updates, kept, params)
    return updates, (count + 1, new)

  return optax.GradientTransformation(init, update)


def by_path(
  rules: Sequence[tuple[str, optax.GradientTransformation]],
  trainable: Sequence[str] = ('.*',),
) -> optax.GradientTransformation:
  """Returns an optimizer that treats groups of parameters differently.

  Args:
    rules: Pairs (regular expression, transformation). A parameter takes the
      first rule whose expression occurs in its path, such as
      'student/conv1/kernel'.
    trainable: Regular expressions. A parameter in whose path none of them
      occurs is never updated.

  Raises:
    UsageError: At `init`: no rule matches a parameter's path.
  """
  group = grouping([expression for expression, _ in rules], trainable)
  transforms = {str(i): tx for i, (_, tx) in enumerate(rules)}
  return optax.partition(
    {**transforms, '-1': optax.set_to_zero()},
    lambda params: jax.tree.map_with_path(
      lambda path, _: str(group(pytrees.path_name(path))), params
    ),
  )


def grouping(
  expressions: Sequence[str], trainable: Sequence[str] = ('.*',)
) -> Callable[[str], int]:
  """Returns a function that gives the number of a path's optimizer rule.

  Args:
    expressions: The regular expressions of the rules.
    trainable: Regular expressions, as in `by_path`.

  Returns:
    A function of a path, such as 'student/conv1/kernel'. It returns the index
    of the first expression that occurs in the path, or -1 if none of
    `trainable` does. It raises UsageError if no expression occurs in the path.
  """

  def group(name: str) -> int:
    if not any(re.search(expression, name) for expression in trainable):
      return -1
    for i, expression in enumerate(expressions):
      if re.search(expression, name):
        return i
    raise errors.UsageError(
      f'no optimizer rule matches parameter {name!r} (rules: '
      f'{", ".join(map(repr, expressions))}); end the rules with ".*"'
    )

  return group
