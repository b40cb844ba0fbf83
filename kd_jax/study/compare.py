"""The table of groups of runs, with differences paired by seed."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd_jax import errors
from kd_jax.config import roles
from kd_jax.study import groups as groups_lib
from kd_jax.study.groups import Group
from kd_jax.study.spread import Spread, errors_of_interval, spread

# Keys that may differ from the reference's without a word: they are the
# method's own, or stand in the table, or say nothing of the training.
_EXPECTED = (
  'method', 'method_args', 'weights', 'phases', 'trainable', 'student',
  'students', 'teacher', 'teachers', 'epochs', 'batch_size', 'eval_every',
)  # fmt: skip


_FACTS = ('mean', 'std')  # of the data's facts: how it is seen, not what it is


def figures(
  groups: Sequence[Group],
  reference: str | None = None,
  left_out: Sequence[str] = (),
) -> dict[str, Any]:
  """Returns the figures of a table, which JSON can represent.

  Args:
    groups: The groups, of which there is at least one; each is a row.
    reference: The label or the method of the group that the others are compared
      with; see `groups.chosen`.
    left_out: A line for each run that is left out.

  Returns:
    A dict: 'reference' (a label), 'rows', 'left_out', 'made' (hardware,
    versions and commits of all runs). Of a row, 'top1' has a value (%) per seed
    of 'seeds', 'student' the fields of `Spread`. 'from_alone' and
    'from_reference' have the fields of `Spread` of the differences, with the
    'seeds' of both and what differs in 'also'; they are None if there is
    nothing to compare with. 'from_reference' has only 'other' if the row must
    not be compared.

  Raises:
    UsageError: No group is the reference.
  """
  other = groups_lib.chosen(groups, reference)
  made: dict[str, list[str]] = {}
  for one in groups:
    for run in one.runs.values():
      for name, value in run.made.items():
        if value not in made.setdefault(name, []):
          made[name].append(value)
  return {
    'reference': other.label,
    'rows': [_row(one, other) for one in groups],
    'left_out': list(left_out),
    'made': made,
  }


def _row(group: Group, reference: Group) -> dict[str, Any]:
  from_reference = None
  if group is not reference:
    others = _others(group, reference)
    from_reference = (
      {'other': others}
      if others
      else {
        **_paired(group.top1, reference.top1),
        'also': _also(group, reference),
      }
    )
  return {
    'label': group.label,
    'method': group.method,
    'network': _network(group),
    'metric': next(iter(group.runs.values())).metric,
    'seeds': list(group.top1),
    'top1': list(group.top1.values()),
    'student': spread(list(group.top1.values()))._asdict(),
    'alone': {str(seed): value for seed, value in group.alone.items()},
    'from_alone': _paired(group.top1, group.alone) if group.alone else None,
    'from_reference': from_reference,
    'data': _data(group.config),
    'config': group.config,
    'runs': list(dict.fromkeys(run.place for run in group.runs.values())),
  }


def _paired(
  ours: Mapping[int, float], theirs: Mapping[int, float]
) -> dict[str, Any]:
  """Returns the differences of the seeds that both have."""
  seeds = [seed for seed in ours if seed in theirs]
  if not seeds:
    return {'seeds': []}
  differences = spread([ours[seed] - theirs[seed] for seed in seeds])
  return {'seeds': seeds, **differences._asdict()}


def _others(group: Group, reference: Group) -> list[str]:
  """Returns the names of settings for which groups must not be compared.

  None agrees with every value: a method without a teacher can be compared with
  a method with one, and a file may lack its teacher's accuracy. Phases and the
  teacher's use of batch statistics belong to the method, so they may differ.
  """
  facts = group.data_facts, reference.data_facts
  ours = _recipe(group, groups_lib.known(*facts))
  theirs = _recipe(reference, groups_lib.known(*facts[::-1]))
  names = [
    name
    for name, value in ours.items()
    if None not in (value, theirs[name]) and value != theirs[name]
  ]
  if 'data' in names and 'version of the data' in names:
    names.remove('version of the data')
  taught = [
    (run.teacher, reference.runs[seed].teacher)
    for seed, run in group.runs.items()
    if seed in reference.runs
  ]
  if any(None not in pair and pair[0] != pair[1] for pair in taught):
    names.append('teacher top-1')
  return names


def _recipe(group: Group, facts: Any) -> dict[str, Any]:
  config = group.config
  given = [config['teacher'], *roles.named(config, 'teacher').values()]
  teachers = [_teacher(fields) for fields in given if fields.get('name')]
  return {
    'data': {key: config['data'].get(key) for key in groups_lib.DATA},
    'version of the data': facts
    and {key: value for key, value in facts.items() if key not in _FACTS},
    'network': [_student(x) for x in _students(group)],
    'epochs': config['epochs'],
    'batch size': config['batch_size'],
    'teacher': teachers or None,
  }


def _students(group: Group) -> list[Mapping[str, Any]]:
  """Returns the deployed student's fields; all students' if it is not known."""
  usual, named = group.config['student'], roles.named(group.config, 'student')
  deployed = _deployed(group)
  if named and not deployed:
    return [usual, *named.values()]
  if deployed not in named:
    return [usual]
  return [{**usual, 'args': {}, **named[deployed]}]


def _deployed(group: Group) -> str:
  """Returns the name of the deployed student; '' if it is not known."""
  return next((r.student for r in group.runs.values() if r.student), '')


def _student(fields: Mapping[str, Any]) -> list[Any]:
  # Runs of older versions lack the keys of what a student begins with.
  begins = {k: v for k, v in fields.items() if k.startswith('init') and v}
  return [fields.get('name'), fields.get('args'), begins]


def _teacher(fields: Mapping[str, Any]) -> list[Any]:
  args = fields.get('args', {}).items()
  origin = fields.get('path') or fields.get('recipe')
  kept = {key: value for key, value in args if key != 'batch_norm'}
  return [fields['name'], kept, origin]


def _also(group: Group, reference: Group) -> list[str]:
  """Returns what differs beside the method and what the labels show."""
  ours, theirs = map(groups_lib.flattened, (group.config, reference.config))
  return [
    f'{key}={groups_lib.text(ours.get(key))} '
    f'(the reference {groups_lib.text(theirs.get(key))})'
    for key in sorted({*ours, *theirs})
    if ours.get(key) != theirs.get(key)
    and key.split('.')[0] not in _EXPECTED
    and key.removeprefix('data.') not in groups_lib.DATA
    and not {key} <= {*group.shown} & {*reference.shown}
  ]


def _data(config: Mapping[str, Any]) -> str:
  data = config['data']
  parts = [data['name']]
  if data['train_size']:
    parts.append(f'{data["train_size"]} training images')
  if data['val_fraction']:
    parts.append(f'{data["val_fraction"]:g} of them held out')
  if data['image_size']:
    parts.append(f'{data["image_size"]} pixels')
  if 'eval_protocol' in data:
    parts.append(f'protocol {data["eval_protocol"]}')
  return ', '.join(parts)


def _network(group: Group) -> str:
  named = roles.named(group.config, 'student')
  student = {'args': {}, **named.get(_deployed(group), group.config['student'])}
  widths = student['args'].get('widths')
  wide = f' ({"-".join(map(str, widths))})' if widths else ''
  return f'{student["name"]}{wide}'


def markdown(shown: Mapping[str, Any]) -> str:
  """Returns a Markdown table with a row per group, and what must be said.

  Args:
    shown: What `figures` returns.
  """
  rows = shown['rows']
  seeds = rows[0]['seeds']
  is_even = all(
    row['seeds'] == seeds
    and all(
      found is None or found.get('seeds', seeds) == seeds
      for found in (row['from_alone'], row['from_reference'])
    )
    for row in rows
  )
  metrics = list(dict.fromkeys(row['metric'] for row in rows))
  head = ['method', 'student', ' or '.join(metrics), 'std', 'from alone']
  align = ['---', '---', '---:', '---:', '---:']
  if not is_even:
    head.insert(2, 'seeds')
    align.insert(2, '---')
  if len(rows) > 1:
    head.append(f'from {shown["reference"]}')
    align.append('---:')
  lines = [head, align, *(_cells(row, is_even, len(head)) for row in rows)]
  text = [
    f'| {" | ".join(cell.replace("|", chr(92) + "|") for cell in line)} |'
    for line in lines
  ]
  text += ['', _caption(rows, is_even)]
  text += _remarks(shown)
  return '\n'.join(map(errors.line, text))


def _cells(row: Mapping[str, Any], is_even: bool, count: int) -> list[str]:
  std = row['student']['std']
  cells = [
    f'`{row["label"]}`',
    row['network'],
    f'{row["student"]["mean"]:.2f}',
    '' if std is None else f'{std:.2f}',
    _alone(row, is_even),
    _difference(row['from_reference'], is_even),
  ]
  if not is_even:
    cells.insert(2, ', '.join(map(str, row['seeds'])))
  return cells[:count]


def _alone(row: Mapping[str, Any], is_even: bool) -> str:
  if row['method'] == 'ce':
    return ''
  return _difference(row['from_alone'], is_even) or 'not trained'


def _difference(found: Mapping[str, Any] | None, is_even: bool) -> str:
  if found is None:
    return ''
  if 'other' in found:
    return f'other {", ".join(found["other"])}'
  if not found['seeds']:
    return 'no seed of both'
  difference = Spread(*(found[name] for name in Spread._fields))
  error = '' if difference.sem is None else f' ± {difference.sem:.2f}'
  star = '*' if difference.is_claim else ''
  n = '' if is_even else f' (n={difference.n})'
  return f'{difference.mean:+.2f}{error}{star}{n}'


def _caption(rows: Sequence[Mapping[str, Any]], is_even: bool) -> str:
  metrics = dict.fromkeys(row['metric'] for row in rows)
  shown = ' or '.join(metrics)
  shown = shown[:1].upper() + shown[1:] if shown == 'top-1' else shown
  parts = [f'{shown} (%) on test after the last epoch']
  counts = [len(row['seeds']) for row in rows]
  if is_even:
    seeds = ', '.join(map(str, rows[0]['seeds']))
    parts.append(f'{counts[0]} seed{"s" * (counts[0] > 1)} ({seeds})')
  if len({row['data'] for row in rows}) == 1:
    parts.append(rows[0]['data'])
  text = f'{", ".join(parts)}. '
  ns = {
    found['n']
    for row in rows
    for found in (row['from_alone'], row['from_reference'])
    if found and 'n' in found
  }
  if not ns:
    return text.strip()
  few = sorted(n for n in ns if n > 1)
  if few:
    halves = [f'{errors_of_interval(n):.1f} of them for {n} seeds' for n in few]
    text += (
      'Paired differences with their standard error; * is more than two of '
      f'them. Half a 95% interval is {", ".join(halves)}.'
    )
  else:
    text += 'Differences of one seed have no standard error and no star.'
  return text + ('' if is_even else ' n is the number of seeds of both.')


def _remarks(shown: Mapping[str, Any]) -> list[str]:
  """Returns what differs beside the methods, and what is left out."""
  lines = [
    f'- `{row["label"]}` also has {", ".join(found["also"])}.'
    for row in shown['rows']
    if (found := row['from_reference']) and found.get('also')
  ]
  made = shown['made']
  if made:
    parts = [
      *made.get('hardware', ()),
      *(f'jax {version}' for version in made.get('jax', ())),
      *(f'commit {commit}' for commit in made.get('commit', ())),
    ]
    lines.append(f'- The runs were made with {", ".join(parts)}.')
  lines += [f'- Left out: {line}.' for line in shown['left_out']]
  return ['', *lines] if lines else []
