"""The weights of one network among all that a file holds.

A file may hold a state dict, or one or more of them under keys: 'model',
'state_dict', an average of the weights under 'model_ema'. Wrappers add prefixes
to the names, such as 'module.', 'model.' and 'module.student.'. Here keys and
prefixes are one thing: all tensors have names joined by dots, and the weights
of a network stand where all of its names follow the same prefix.
"""

from collections.abc import Collection, Mapping
import re
from typing import Any, NamedTuple

from kd_jax import errors
from kd_jax.models.pretrained import contents
from kd_jax.models.pretrained.torch_save import Tensor

# Numbers that count, which networks here do without: of batches (PyTorch's
# BatchNorm), of averages (its AveragedModel), of operations (thop).
COUNTERS = (
  'num_batches_tracked', 'n_averaged', 'total_ops', 'total_params',
)  # fmt: skip
# The rows of biases that a Swin's pairs of tokens read, which follow from the
# side of its windows; a state dict lists them beside the biases.
INDEX = 'relative_position_index'
BIASES = 'relative_position_bias_table'
# Layers that overhaul-distillation's state dict of a DeepLab with a MobileNetV2
# lists a second time, the first time under 'backbone.features.'.
COPIES = ('backbone.low_level_features.', 'backbone.high_level_features.')
_LOW_LEVEL = 4  # the first so many of the features are the low-level ones
# The keys of a training script's own network, the most usual first.
USUAL = (
  'model', 'state_dict', 'model_state_dict', 'model_state', 'net', 'network',
  'weights', 'params',
)  # fmt: skip
# Parts of the keys of averaged weights, which stand behind those trained.
_AVERAGED = ('ema', 'swa', 'averaged', 'shadow')
_DEEPEST = 6  # dicts within dicts
_MOST = 200_000  # entries of a file, which may hold a dict many times


class State(NamedTuple):
  """The weights of a network.

  Attributes:
    weights: By PyTorch's names, without a prefix.
    prefix: What stands before these names in the file; '' or 'a.b.'.
    notes: What was taken and what was left, a line each.
  """

  weights: dict[str, Tensor]
  prefix: str
  notes: tuple[str, ...]


def flat(content: Mapping[Any, Any]) -> dict[str, Any]:
  """Returns tensors, and what else is no dict, by names joined by dots."""
  found: dict[str, Any] = {}

  def add(entries: Mapping[Any, Any], before: str, depth: int) -> None:
    for key, value in entries.items():
      name = f'{before}{errors.shown(key)}'
      if isinstance(value, dict) and depth < _DEEPEST:
        add(value, f'{name}.', depth + 1)
      elif len(found) == _MOST:
        raise errors.UsageError(f'it has more than {_MOST} entries')
      else:
        found[name] = value

  add(content, '', 1)
  return found


def choose(
  content: Mapping[Any, Any], plans: Collection[Collection[str]], key: str = ''
) -> State:
  """Returns the weights of a network among all that a file holds.

  Args:
    content: What the file holds; see `contents.opened`.
    plans: The names of the network's weights, in each of its layouts.
    key: The key, or keys joined by dots, under which they stand; '' looks for
      them.

  Raises:
    UsageError: There are none, or several of which none is to be preferred.
  """
  entries = flat(content)
  tensors = [n for n, value in entries.items() if isinstance(value, Tensor)]
  if not tensors:
    raise errors.UsageError(
      'it holds no state dict: its entries are '
      f"{contents.shown(content)}; save the network's state_dict()"
    )
  start = f'{key}.' if key else ''
  below = [name for name in tensors if name.startswith(start)]
  fitting = _fitting(below, start, plans)
  if not below:
    whole = [p.rstrip('.') for p in _fitting(tensors, '', plans) if p]
    raise errors.ArgumentError(
      f'key={key!r}: there are no weights under it; '
      + (
        f'the network fits under {contents.shown(whole)}'
        if whole
        else f'the entries are {contents.shown(content)}'
      )
    )
  if fitting:
    prefix = _preferred(fitting)
    others = [p for p in fitting if p != prefix]
  else:
    prefix, others = _nearest(below, start, plans), []
  for name in {name for plan in plans for name in plan}:
    value = entries.get(prefix + name, None)
    if value is not None and not isinstance(value, Tensor):
      raise errors.UsageError(
        f'{prefix}{name} is a {contents.kind(value)} and no plain tensor of '
        'floats: save the weights before they are quantised or packed'
      )
  weights = {
    name.removeprefix(prefix): entries[name]
    for name in below
    if name.startswith(prefix)
  }
  return State(weights, prefix, _notes(entries, weights, prefix, others))


def is_counter(name: str) -> bool:
  """Returns whether a name is that of a counter; see `COUNTERS`."""
  return name.rpartition('.')[2] in COUNTERS


def is_left_out(name: str) -> bool:
  """Returns whether an entry of a state dict is nothing that a network has."""
  return is_counter(name) or is_copy(name) or is_index(name)


def is_index(name: str) -> bool:
  """Returns whether a name is that of rows of biases; see `INDEX`."""
  return name.rpartition('.')[2] == INDEX


def is_copy(name: str) -> bool:
  """Returns whether a name is that of a weight's second entry; see `COPIES`."""
  return name.startswith(COPIES)


def copied(name: str) -> str:
  """Returns the name of a weight's second entry, '' if it has none."""
  match = re.fullmatch(r'backbone\.features\.((\d+)\..*)', name)
  if not match:
    return ''
  return COPIES[int(match[2]) >= _LOW_LEVEL] + match[1]


def _fitting(
  names: Collection[str], start: str, plans: Collection[Collection[str]]
) -> list[str]:
  """Returns the prefixes, in the file's order, after which a plan is whole."""
  there, prefixes = set(names), []
  for plan in plans:
    first = next(iter(plan), '')
    for name in names:
      prefix = name.removesuffix(first)
      is_prefix = prefix != name and (not prefix or prefix.endswith('.'))
      if (
        is_prefix
        and prefix.startswith(start)
        and all(prefix + wanted in there for wanted in plan)
      ):
        prefixes.append(prefix)
  return list(dict.fromkeys(prefixes))


def _preferred(fitting: list[str]) -> str:
  """Returns the prefix of the weights to be taken where several fit.

  Raises:
    UsageError: Several are as good.
  """

  def rank(prefix: str) -> tuple[int, int]:
    keys = prefix.lower().split('.')[:-1]
    averaged = any(part in key for part in _AVERAGED for key in keys)
    places = [USUAL.index(key) for key in keys[:1] if key in USUAL]
    return averaged, places[0] if places else (len(USUAL) if prefix else -1)

  ranked = sorted(fitting, key=rank)
  if len(ranked) > 1 and rank(ranked[0]) == rank(ranked[1]):
    names = [prefix.rstrip('.') for prefix in ranked]
    raise errors.ArgumentError(
      f"key='': the network fits under {contents.shown(names)}; say which"
    )
  return ranked[0]


def _nearest(
  names: Collection[str], start: str, plans: Collection[Collection[str]]
) -> str:
  """Returns the prefix after which the most names are those of a plan."""
  wanted = {name for plan in plans for name in plan}
  counts: dict[str, int] = {}
  for name in names:
    rest = name.removeprefix(start)
    parts = rest.split('.')
    for i in range(min(len(parts), _DEEPEST)):
      if '.'.join(parts[i:]) in wanted:
        prefix = start + ''.join(f'{part}.' for part in parts[:i])
        counts[prefix] = counts.get(prefix, 0) + 1
  if counts:
    return max(counts, key=lambda prefix: counts[prefix])
  return _common([name for name in names if not is_counter(name)], start)


def _common(names: list[str], start: str) -> str:
  """Returns what all names begin with, up to where their layers differ."""
  prefix = start
  while names:
    heads = {name.removeprefix(prefix).partition('.')[0] for name in names}
    longer = f'{prefix}{next(iter(heads))}.'
    if len(heads) > 1 or not all(
      name.count('.', len(longer)) for name in names
    ):
      break
    prefix = longer
  return prefix


def _notes(
  entries: Mapping[str, Any],
  weights: Mapping[str, Tensor],
  prefix: str,
  others: list[str],
) -> tuple[str, ...]:
  notes = []
  if prefix:
    left = [name for name in entries if not name.startswith(prefix)]
    groups = dict.fromkeys(name.partition('.')[0] for name in left)
    # What shares the first key with the weights is named in full.
    first = prefix.partition('.')[0]
    depth = prefix.count('.') + 1
    what = [group for group in groups if group != first] + [
      '.'.join(name.split('.')[:depth])
      for name in left
      if name.partition('.')[0] == first
    ]
    notes.append(
      f'the weights under {prefix.rstrip(".")!r} were taken'
      + (f'; left: {contents.shown(dict.fromkeys(what))}' if what else '')
    )
  if others:
    names = [other.rstrip('.') or 'no key' for other in others]
    notes.append(f'the network fits under {contents.shown(names)} too')
  counters = [name for name in weights if is_counter(name)]
  if counters:
    kinds = dict.fromkeys(name.rpartition('.')[2] for name in counters)
    notes.append(
      f'{len(counters)} numbers that count were left out ({", ".join(kinds)})'
    )
  if count := sum(map(is_index, weights)):
    notes.append(
      f'{count} indices were left out, since they follow from the size of the '
      f'windows ({INDEX})'
    )
  copies = [name for name in weights if is_copy(name)]
  if copies:
    notes.append(
      f'{len(copies)} weights that are listed twice were taken once '
      f'(left: {", ".join(name + "*" for name in COPIES)})'
    )
  return tuple(notes)
