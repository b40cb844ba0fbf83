"""Runs that differ in the seed alone, as a group, and the groups' names."""

from collections.abc import Mapping, Sequence
import hashlib
import json
from typing import Any, NamedTuple

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.config import roles
from kd_jax.study.finished import Run

# Keys that belong to a method; those of other methods need not be alike.
_METHODS_OWN = ('method', 'method_args', 'weights', 'phases', 'trainable')
# Keys of `data` that say which images there are, and how they are evaluated.
DATA = ('name', 'train_size', 'val_fraction', 'image_size', 'eval_protocol')
_MOST_KEYS = 4  # in a group's name
# It decides what is known as the best epoch, not how a network is trained.
_UNCOMPARED = 'eval_every'


class Group(NamedTuple):
  """Runs whose configurations differ in the seed alone.

  Attributes:
    label: The method, and what tells this group from others of the method.
    shown: The keys in the label.
    config: What determines the results, but for the seed.
    data_facts: What identifies the data; None if it is not known.
    runs: The runs by seed.
    alone: Top-1 (%) of the student alone by seed, where it is known.
  """

  label: str
  shown: tuple[str, ...]
  config: dict[str, Any]
  data_facts: Any
  runs: dict[int, Run]
  alone: dict[int, float]

  @property
  def method(self) -> str:
    """The name of the method."""
    return self.config['method']

  @property
  def top1(self) -> dict[int, float]:
    """Top-1 (%) on test after the last epoch, by seed."""
    return {seed: self.runs[seed].top1 for seed in sorted(self.runs)}


def group(runs: Sequence[Run]) -> tuple[list[Group], list[str]]:
  """Returns the groups of runs, and a line for each run that is left out.

  Where several runs have the same configuration and seed, the first one with a
  folder of its own counts.

  Args:
    runs: The runs; the groups have the order of their first runs.
  """
  groups: list[Group] = []
  left_out: list[str] = []
  for run in sorted(runs, key=lambda run: run.is_copy):
    alike = [
      one
      for one in groups
      if one.config == run.config and _agree(one.data_facts, run.data_facts)
    ]
    if not alike:
      alike = [Group('', (), run.config, run.data_facts, {}, {})]
      groups += alike
    held = alike[0]
    if run.alone is not None:
      held.alone.setdefault(run.seed, run.alone)
    before = held.runs.setdefault(run.seed, run)
    is_copy = run.is_copy and before.top1 == run.top1
    if before is not run and not is_copy:
      left_out.append(
        f'{run.place}: configuration and seed {run.seed} are those of '
        f'{before.place}, which counts ({run.top1:.2f} and {before.top1:.2f})'
      )
  first = {id(run): i for i, run in enumerate(runs)}
  groups.sort(key=lambda one: min(first[id(r)] for r in one.runs.values()))
  return named([_with_alone(one, groups) for one in groups]), left_out


def _agree(one: Any, other: Any) -> bool:
  """Returns whether facts of data are equal, as far as they are known."""
  return None in (one, other) or known(one, other) == known(other, one)


def known(facts: Any, others: Any) -> Any:
  """Returns facts of data without a fingerprint that the others lack.

  Runs of older versions have none.
  """
  if not facts or not others or others.get('fingerprint'):
    return facts
  return {key: x for key, x in facts.items() if key != 'fingerprint'}


def _with_alone(group: Group, groups: Sequence[Group]) -> Group:
  """Adds the runs of the student alone that are a group themselves."""
  if group.method == 'ce':
    return group._replace(alone={})
  student = next((r.student for r in group.runs.values() if r.student), '')
  if roles.named(group.config, 'student') and not student:
    return group  # which student is deployed is not known
  want = _compared(config_lib.alone(group.config, student))
  alone = dict(group.alone)
  for other in groups:
    if (
      other.method == 'ce'
      and _compared(other.config) == want
      and _agree(other.data_facts, group.data_facts)
    ):
      alone |= other.top1
  return group._replace(alone=alone)


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
  return {k: v for k, v in config.items() if k not in ('seed', _UNCOMPARED)}


def named(groups: Sequence[Group]) -> list[Group]:
  """Returns the groups with labels, no two of which are alike.

  A label is the method, and what differs between groups of that method. Where
  groups of another method differ in a key that is not the method's own, such as
  the epochs, or where the data differ, the label has that key too.
  """
  flat = [flattened(one.config) for one in groups]
  of_method: dict[str, list[str]] = {}
  for one in groups:
    same = [f for f in flat if f['method'] == one.method]
    of_method[one.method] = _varying(same)
  common = {
    key
    for keys in of_method.values()
    for key in keys
    if key.split('.')[0] not in _METHODS_OWN
  }
  common |= {*_varying(flat)} & {f'data.{key}' for key in DATA}
  result = []
  for one, values in zip(groups, flat, strict=True):
    keys = [key for key in values if key in {*of_method[one.method], *common}]
    if not one.config['teacher']['name']:
      keys = [key for key in keys if not key.startswith('teacher.')]
    same = [f for f in flat if f['method'] == one.method]
    shown = _few(sorted(keys, key=_order), values, same)
    parts = [one.method, *(f'{key}={text(values[key])}' for key in shown)]
    if len(shown) < len(keys):
      parts.append('...')
    result.append(one._replace(label=' '.join(parts), shown=tuple(shown)))
  return [_with_facts(one, result) for one in result]


def _with_facts(group: Group, groups: Sequence[Group]) -> Group:
  """Adds a hash of the data to a label that another group has too."""
  if sum(other.label == group.label for other in groups) == 1:
    return group
  facts = json.dumps(group.data_facts, sort_keys=True)
  digest = hashlib.sha256(facts.encode()).hexdigest()[:8]
  return group._replace(label=f'{group.label} data {digest}')


def flattened(value: Any, path: str = '') -> dict[str, Any]:
  """Returns the values of nested dicts by their paths, such as 'data.name'."""
  if not isinstance(value, dict):
    return {path: value}
  found: dict[str, Any] = {}
  for key, inner in value.items():
    found |= flattened(inner, f'{path}.{key}'.removeprefix('.'))
  return found


def _varying(flat: Sequence[Mapping[str, Any]]) -> list[str]:
  """Returns the keys which not all have, or whose values differ."""
  keys = {key for values in flat for key in values}
  return [
    key
    for key in keys
    if any(key not in values for values in flat)
    or any(values[key] != flat[0][key] for values in flat)
  ]


def _few(
  keys: list[str],
  values: Mapping[str, Any],
  same: Sequence[Mapping[str, Any]],
) -> list[str]:
  """Returns the keys if they are few, else enough of them to be told apart."""
  if len(keys) <= _MOST_KEYS:
    return keys
  others = [other for other in same if other is not values]
  few = []
  for key in keys:
    left = [o for o in others if o.get(key) == values[key] and key in o]
    if len(left) < len(others):
      few.append(key)
      others = left
  return few or keys[:_MOST_KEYS]


def _order(key: str) -> tuple[int, str]:
  """Returns the place of a key in the table of keys."""
  for i, known in enumerate(config_lib.KEYS):
    if key == known.path or key.startswith(f'{known.path}.'):
      return i, key
  return len(config_lib.KEYS), key


def text(value: Any) -> str:
  """Returns a value as a label shows it, without blanks: (4,4,8,16)."""
  if isinstance(value, list | tuple):
    inner = ','.join(map(text, value))
    return f'({inner},)' if len(value) == 1 else f'({inner})'
  if isinstance(value, str) and value and not set(value) & set(' |`\'"'):
    return value
  return json.dumps(value) if isinstance(value, str) else repr(value)


def chosen(groups: Sequence[Group], reference: str | None) -> Group:
  """Returns the group that the others are compared with.

  Args:
    groups: The groups, of which there is at least one.
    reference: A label, or a method, whose first group is taken; None takes
      `kd`, or else the first method that learns from more than the labels.

  Raises:
    UsageError: No group has this label or method.
  """
  if reference is not None:
    for name in ('label', 'method'):
      for one in groups:
        if getattr(one, name) == reference.replace('`', ''):
          return one
    names = {one.label for one in groups} | {one.method for one in groups}
    raise errors.unknown('--reference', reference, names)
  for method in ('kd', None):
    for one in groups:
      if one.method == method or (method is None and one.method != 'ce'):
        return one
  return groups[0]
