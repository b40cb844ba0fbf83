"""Draws what finished runs have learned: `kd-jax look RUN [RUN ...]`.

The PNG file has a column for each run, and these rows: the difference of the
correlations of logits between classes, teacher minus student, as CRD's paper
shows it; the t-SNE of the pooled features of teacher and student; linear CKA
between their taps; and the student's confusion matrix. A JSON file beside it
has the figures. RUN may be an export, which holds no teacher.

Runs of segmentation or detection are shown on the first images of their split:
the image, the truth, and the masks or boxes of each teacher and run. The JSON
file has their figures of the whole split and of each class, the confusion
matrix of segmentation, and the CKA between the taps.

The confusion matrix is of the whole split. The rest is of a fixed stratified
subset of `--images`, t-SNE of its first 1000. Networks run as in evaluation,
with running statistics, and without augmentation.
"""

from collections.abc import Mapping, Sequence
import importlib.metadata
import json
import pathlib
import platform
from typing import Any
import uuid

from absl import logging

from kd_jax import errors, tasks
from kd_jax.runtime import command
from kd_jax.study import look, look_dense, look_dense_picture, look_picture
from kd_jax.training import imports, report
from kd_jax.version import __version__

_LIBRARIES = ('jax', 'flax', 'numpy', 'scikit-learn', 'matplotlib')
_DENSE = ('detection', 'segmentation')
_TEACHER = "a name of RUN's teachers; or a run or an export, in their place"
# What the figures are, for whoever reads the JSON file alone.
_MEANING = {
  'correlation': "Pearson's, of the logits of two classes over the images",
  'tsne': 'of the tap "pooled", from principal components, random_state 0',
  'cka': 'linear, of flattened taps; unbiased HSIC, averaged over batches',
  'confusion': 'rows are true classes, columns predicted ones',
}


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Draws runs side by side and returns the exit code.

  Args:
    argv: The arguments after the verb.
  """
  logging.set_verbosity(logging.ERROR)  # otherwise Orbax logs every read
  parser = command.parser('kd-jax look', __doc__)
  add = parser.add_argument
  add('runs', nargs='+', metavar='RUN', help='of a finished run, or an export')
  add('--out', default='look.png', help='the PNG file; the JSON lies beside it')
  add('--images', type=int, default=2000, help='whose features are read')
  add('--split', default='test', help='test or val')
  add('--teacher', default='', help=_TEACHER)
  add('--data_dir', default='', help='as config.data.data_dir')
  add('--workers', type=int, default=0, help='that decode')
  add('--allow_imports', action='store_true', help=imports.HELP)
  args = parser.parse_args(argv)
  if args.images < look.LEAST_IMAGES or args.workers < 0:
    raise errors.UsageError(
      f'--images={args.images} must be {look.LEAST_IMAGES} or more and '
      f'--workers={args.workers} not negative'
    )
  out = pathlib.Path(args.out).expanduser()
  if out.suffix != '.png' or not out.parent.is_dir():
    raise errors.UsageError(
      f'--out={args.out}: give a file that ends in .png, in a folder that is '
      'there'
    )
  options = look.Options(
    args.split, args.images, args.data_dir, args.workers, args.allow_imports
  )
  with errors.keys(data_dir='--data_dir', allow_imports='--allow_imports'):
    # All are opened before the first is read, so that a mistake is soon said.
    opened = [look.open_run(path, options, args.teacher) for path in args.runs]
  look_dense.check(opened)
  draw = _dense if opened[0].source.info.task in _DENSE else _classification
  told, picture, said = draw(opened, options)
  figures = {
    'split': args.split,
    'versions': {
      'python': platform.python_version(),
      'kd_jax': __version__,
      **{name: importlib.metadata.version(name) for name in _LIBRARIES},
    },
    **told,
  }
  beside = out.with_suffix('.json')
  _write({out: picture, beside: (json.dumps(figures) + '\n').encode()})
  print('\n'.join([said, *(errors.line(x.note) for x in opened if x.note)]))
  print(errors.line(f'{out} has the pictures and {beside} the figures'))
  return 0


def _classification(
  opened: Sequence[look.Opened], options: look.Options
) -> tuple[dict[str, Any], bytes, str]:
  """Returns the figures, the picture and the text of runs."""
  split = options.split
  runs = [look.look(each, options) for each in opened]
  figures = {
    'meaning': _MEANING,
    'notes': look_picture.notes(runs, split),
    'runs': [look.figures(run) for run in runs],
  }
  return figures, look_picture.png(runs, split), text(runs, split)


def _dense(
  opened: Sequence[look.Opened], options: look.Options
) -> tuple[dict[str, Any], bytes, str]:
  """Returns the same of runs of a dense task."""
  together = look_dense.look_at(opened, options)
  shown = list(range(len(together.images)))
  figures = {
    'meaning': {key: _MEANING[key] for key in ('cka', 'confusion')},
    'shown': shown,
    'runs': look_dense.figures(together),
  }
  picture = look_dense_picture.png(together, options.split)
  return figures, picture, dense_text(together)


def dense_text(together: look_dense.Together) -> str:
  """Returns the text that the command prints of runs of a dense task.

  Args:
    together: The runs.
  """
  metric = tasks.find(together.info.task).headline
  rows: list[tuple[str, ...]] = [
    ('run', 'method', metric.text, "teacher's", 'stage4')
  ]
  lines = []
  labels = look.labels_of([run.path for run in together.runs])
  for label, run in zip(labels, together.runs, strict=True):
    values = {n: x.figures[metric.name] for n, x in run.networks.items()}
    rows.append(
      (
        label,
        run.facts['method'] or '',
        *(
          f'{values[n]:.2f}%' if n in values else ''
          for n in ('student', 'teacher')
        ),
        _of_tap(run, 'stage4'),
      )
    )
    if 'changed' in run.facts:
      lines.append(f'{run.path}: {run.facts["changed"]}')
    if run.left_out:
      lines.append(f'{run.path}: left out the teacher, CKA: {run.left_out}')
  lines.append("stage4: CKA of the last stage's maps, teacher and student")
  return '\n'.join([report.table(rows), *map(errors.line, lines)])


def text(runs: Sequence[look.Looked], split: str) -> str:
  """Returns the text that the command prints.

  Args:
    runs: The figures of each run.
    split: The name of the split.
  """
  rows: list[tuple[str, ...]] = [
    ('run', 'method', 'correct', 'difference', 'pooled', 'logits')
  ]
  for label, run in zip(
    look.labels_of([run.path for run in runs]), runs, strict=True
  ):
    share = 100 * run.confusion.trace() / run.confusion.sum()
    known = bool(run.correlations)
    rows.append(
      (
        label,
        run.facts['method'] or '',
        f'{share:.2f}%',
        f'{look.mean_difference(run):.3f}' if known else '',
        *(_of_tap(run, tap) for tap in ('pooled', 'logits')),
      )
    )
  lines = [
    *(
      f'{run.path}: {run.facts["changed"]}'
      for run in runs
      if 'changed' in run.facts
    ),
    'difference: mean absolute difference of the correlations of logits, '
    'teacher and student; pooled, logits: CKA of the two taps',
  ]
  for run in runs:
    for why in dict.fromkeys(run.left_out.values()):
      kinds = [
        look_picture.NAMES[kind]
        for kind, reason in run.left_out.items()
        if reason == why
      ]
      lines.append(f'{run.path}: left out {", ".join(kinds)}: {why}')
  lines += look_picture.notes(runs, split)
  return '\n'.join([report.table(rows), *map(errors.line, lines)])


def _of_tap(run: look.Looked | look_dense.Looked, tap: str) -> str:
  if run.cka is None or not all(tap in taps for taps in run.taps.values()):
    return ''
  row, column = (run.taps[n].index(tap) for n in ('teacher', 'student'))
  return f'{run.cka[row, column]:.3f}'


def _write(contents: Mapping[pathlib.Path, bytes]) -> None:
  """Writes files, all of them or none.

  Raises:
    UsageError: A file cannot be written.
  """
  parts = {
    path: path.with_name(f'.{path.name}.{uuid.uuid4().hex}.part')
    for path in contents
  }
  try:
    for path, part in parts.items():
      part.write_bytes(contents[path])
    for path, part in parts.items():
      part.replace(path)
  except OSError as error:
    raise errors.UsageError(
      f'cannot write {path}: {error.strerror}; give a writable --out'
    ) from error
  finally:
    for part in parts.values():
      part.unlink(missing_ok=True)
