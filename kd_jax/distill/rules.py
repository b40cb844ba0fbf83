"""The optimizer of a configuration: its rules, its rate and what is trained."""

from collections.abc import Callable
import re
from typing import Any

from ml_collections import ConfigDict
import optax

from kd_jax import domains, errors
from kd_jax.distill import optim


def check_expressions(value: Any, key: str) -> None:
  """Raises UsageError if the value of a key is no sequence of texts.

  A text alone would be taken for its letters, each an expression.
  """
  good = isinstance(value, (list, tuple))
  if not good or not all(isinstance(each, str) for each in value):
    raise errors.UsageError(
      f"{key}={value!r}: give regular expressions, such as ('^student/fc/',); "
      'of a single one the comma is a part'
    )


def optimizer(
  config: ConfigDict, steps_per_epoch: int
) -> tuple[
  optax.GradientTransformation, Callable[[str], bool], optim.Schedule | None
]:
  """Returns the optimizer, a function that says if it trains a path, a rate.

  The rate is the schedule of the parameters that no rule changes; None if they
  are frozen.

  Raises:
    UsageError: An expression is invalid, or a field is unknown.
  """
  common = {'args': {}, **config.optimizer.to_dict()}
  clip_norm = common.pop('clip_norm')
  decay_norms = common.pop('decay_norms', True)
  rules: list[tuple[str, optax.GradientTransformation]] = []
  frozen: list[bool] = []
  all_rules = common.pop('rules')
  for expression in (*(rule[0] for rule in all_rules), *config.trainable):
    try:
      re.compile(expression)
    except re.error as error:
      raise errors.UsageError(
        f'config.optimizer.rules or trainable: {expression!r} is no regular '
        f'expression: {error}'
      ) from error
  for expression, changes in (*all_rules, ('.*', {})):
    fields = optim.of_rule(common, dict(changes))
    for key, value in fields.items():
      if key not in common:
        raise errors.unknown('field of an optimizer rule:', key, common)
      place = f'config.optimizer.rules {expression!r}: {key}'
      domains.check_key(f'optimizer.{key}', value, place)
    with errors.keys('config.'):
      spec, name = fields.pop('learning_rate'), 'optimizer.learning_rate'
      rate = optim.schedule(spec, steps_per_epoch, config.epochs, name)
    name = fields.pop('name')
    epochs = fields.pop('reset_momentum_at')
    resets = [min(int(e * steps_per_epoch), 2**31 - 1) for e in epochs]
    fields['reset_momentum_at'] = resets
    with errors.keys('config.optimizer.args.'):
      made = [(expression, optim.transformation(name, rate, **fields))]
      if not decay_norms:
        free: dict[str, Any] = {**fields, 'weight_decay': 0.0, 'adapts': False}
        spared = optim.transformation(name, rate, **free)
        made.insert(0, (_norms(expression), spared))
    rules += made
    frozen += [name == 'frozen'] * len(made)
  group = optim.grouping([rule[0] for rule in rules], config.trainable)

  def trained(path: str) -> bool:
    index = group(path)
    return index >= 0 and not frozen[index]

  tx = optim.by_path(rules, config.trainable)
  if clip_norm:
    tx = optax.chain(optax.clip_by_global_norm(clip_norm), tx)
  return tx, trained, None if frozen[-1] else rate


def _norms(expression: str) -> str:
  """Returns an expression for the biases and scales among an expression's.

  Raises:
    UsageError: The expression cannot be a part of another.
  """
  joined = f'^(?=.*(?:{expression})).*/(?:bias|scale|layer_scale)$'
  try:
    re.compile(joined)
  except re.error as error:
    raise errors.UsageError(
      f'config.optimizer.rules: with decay_norms=False {expression!r} cannot '
      f'be a part of an expression: {error}; write (?i:a) in place of (?i)a'
    ) from error
  return joined
