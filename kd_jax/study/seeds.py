"""Several seeds of one run, summarised."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd_jax import tasks
from kd_jax.runtime import run_dir
from kd_jax.study.spread import Spread, spread
from kd_jax.training import facts, report


def summary(
  results: Sequence[Mapping[str, Any]],
  alone: Sequence[Mapping[str, Any] | None],
) -> tuple[str, dict[str, Any]]:
  """Returns a table of several seeds of one run, and the figures behind it.

  Args:
    results: The result of the run with each seed.
    alone: The result of the student alone with the same seed; None if it was
      not trained.

  Returns:
    The text, and a dict: 'seeds' and the task's headline, such as 'top1', have
    one value per seed, and so have 'alone_top1' and 'teacher_top1' (by that
    name; 'teacher-a_top1' of a teacher a) if every seed has them; 'student',
    'alone' and 'difference' have the fields of `Spread`, the last two only if
    every seed has its student alone.
  """
  metric = tasks.headline(results[0])
  name = metric.name
  values = [result[name] for result in results]
  distilled = spread(values)
  figures: dict[str, Any] = {
    'seeds': [result['seed'] for result in results],
    'headline': name,
    name: values,
    'student': distilled._asdict(),
  }
  taught = [facts.teachers(result) for result in results]
  for teacher in [n for n in taught[0] if all(n in known for known in taught)]:
    key = f'{run_dir.of_teacher(teacher)}_{name}'
    figures[key] = [known[teacher][name] for known in taught]
  rows = [(f'{metric.text}, last epoch', 'mean', 'std', 'seeds')]
  trained = [a[name] for a in alone if a is not None]
  has_alone = len(trained) == len(results)
  if has_alone:
    figures |= {
      f'alone_{name}': trained,
      'alone': spread(trained)._asdict(),
    }
    rows.append(('student alone', *_cells(spread(trained))))
  rows.append((f'student, {results[0]["method"]}', *_cells(distilled)))
  text = report.table(rows)
  if has_alone:
    paired = [t - a for t, a in zip(values, trained, strict=True)]
    difference = spread(paired)
    figures['difference'] = difference._asdict()
    if difference.is_claim:
      verdict = 'more than two standard errors'
    else:
      verdict = 'within two standard errors: no claim'
    text += (
      f'\npaired difference from the student alone: {difference.mean:+.2f} '
      f'(standard error {difference.sem:.2f}; {verdict})'
    )
  return text, figures


def _cells(found: Spread) -> tuple[str, str, str]:
  std = '' if found.std is None else f'{found.std:.2f}'
  return f'{found.mean:.2f}%', std, str(found.n)
