"""The figures of runs side by side, as a picture: a column for each run."""

from collections.abc import Callable, Mapping, Sequence
import io
import textwrap
from typing import Any

import numpy as np

from kd_jax.study import look

_NAMED = 20  # the most classes that are shown by name
_WRITTEN = 12  # the most rows of a matrix whose entries are written
_LONGEST = 11  # characters of a class's name
_MOST_LINES = 4  # of a column's title, after two others
_WIDE = 44  # characters of a column's title
_LINE = 0.16  # the height of a line of a column's title, in inches
_KEY = 1.05  # the width of the column of colour keys, in inches
_SIZE = 7  # of small text, in points
_ROWS = {
  'correlation': 'Correlations of logits: teacher minus student',
  'tsne_teacher': "t-SNE of the teacher's pooled features",
  'tsne_student': "t-SNE of the student's pooled features",
  'cka': 'Linear CKA (unbiased) between taps',
  'confusion': 'Predictions of the student, in % of each true class',
}
# What runs may share: it stands in the title of the picture if they do, and in
# those of the columns if they do not.
_SHARED: dict[str, Callable[[Mapping[str, Any]], str]] = {
  'teacher': lambda f: f'teacher {f["teacher"]}',
  'network': lambda f: f'student {f["network"]}',
  'data': lambda f: f'{f["data"]} ({f["image_size"]} pixels)',
  'train_images': lambda f: f'{f["train_images"]} training images',
  'epochs': lambda f: f'{f["epochs"]} epochs',
  'seed': lambda f: f'seed {f["seed"]}',
}
# The kinds of pictures, as texts name them.
NAMES = {
  'correlation': 'correlations of logits',
  'tsne_teacher': "t-SNE of the teacher's features",
  'tsne_student': "t-SNE of the student's features",
  'cka': 'CKA',
  'confusion': 'predictions',
}
_Panels = Sequence[tuple[Any, look.Looked]]


def png(runs: Sequence[look.Looked], split: str) -> bytes:
  """Returns the picture of several runs as a PNG file.

  Args:
    runs: The figures of each run.
    split: The name of the split.
  """
  image = io.BytesIO()
  draw(runs, split).savefig(image, format='png', dpi=150)
  return image.getvalue()


def draw(runs: Sequence[look.Looked], split: str) -> Any:
  """Returns the picture of several runs as a figure of matplotlib.

  It has a column for each run and a row for each kind of picture. A row that no
  run has is left out; the title says why.

  Args:
    runs: The figures of each run.
    split: The name of the split.
  """
  from matplotlib import figure

  rows = [kind for kind in _ROWS if any(kind not in r.left_out for r in runs)]
  columns = len(runs)
  common, titles = texts(runs, split)
  head = _LINE * max(map(len, titles))
  side = 4.0 if columns == 1 else 2.9  # of a panel, in inches
  picture = figure.Figure(
    figsize=(
      columns * (side + 0.75) + _KEY,
      0.9 + head + (side + 0.95) * len(rows),
    ),
    layout='constrained',
  )
  picture.suptitle(_title(runs, rows, common, split, columns), fontsize=10)
  grid = picture.add_gridspec(
    1 + 2 * len(rows),
    columns + 1,
    width_ratios=[*[side] * columns, _KEY],
    height_ratios=[head, *[0.15, side] * len(rows)],
  )
  for column, (first, *others) in enumerate(titles):
    axes = _blank(picture.add_subplot(grid[0, column]))
    style = {'ha': 'center', 'va': 'top'}
    below = 1 - 1.15 * _LINE / head
    _say(axes, 0.5, 1, first, fontsize=10, fontweight='bold', **style)
    _say(axes, 0.5, below, '\n'.join(others), fontsize=9, **style)
  for row, kind in enumerate(rows):
    at = 1 + 2 * row
    name = _blank(picture.add_subplot(grid[at, :columns]))
    _say(name, 0, 0, _ROWS[kind], fontsize=10, fontweight='bold')
    panels = []
    for column, run in enumerate(runs):
      axes = picture.add_subplot(grid[at + 1, column])
      axes.set_box_aspect(1)
      if kind in run.left_out:
        _blank(axes)
        text = textwrap.fill(f'left out: {run.left_out[kind]}', 34)
        _say(axes, 0.5, 0.5, text, ha='center', fontsize=9)
      else:
        panels.append((axes, run))
    _DRAWN[kind](panels, _blank(picture.add_subplot(grid[at + 1, columns])))
  return picture


def _blank(axes: Any) -> Any:
  """Returns axes that hold texts or a key, without lines of their own."""
  axes.set_axis_off()
  return axes


def _say(axes: Any, x: float, y: float, text: str, **style: Any) -> None:
  """Writes a text, for which the layout makes no room, into blank axes."""
  place = {'transform': axes.transAxes, 'in_layout': False}
  axes.text(x, y, text, **place, **style)


def _title(
  runs: Sequence[look.Looked],
  rows: Sequence[str],
  common: str,
  split: str,
  columns: int,
) -> str:
  """Returns the title of the picture, which says what was read."""
  lines = [common, *([_sizes(runs[0], split)] if _same_sizes(runs) else [])]
  lines += notes(runs, split)
  if gone := [kind for kind in _ROWS if kind not in rows]:
    why = '; '.join(
      dict.fromkeys(run.left_out[kind] for kind in gone for run in runs)
    )
    names = ', '.join(NAMES[kind] for kind in gone)
    lines.append(f'left out: {names} ({why})')
  width = 20 + 42 * columns
  return '\n'.join(textwrap.fill(line, width) for line in lines if line)


def _same_sizes(runs: Sequence[look.Looked]) -> bool:
  return all(run.images == runs[0].images for run in runs)


def _sizes(run: look.Looked, split: str) -> str:
  whole, features, embedded = run.images.values()
  return (
    f'{split} split: predictions of {whole} images, features of {features}, '
    f't-SNE of {embedded}'
  )


def notes(runs: Sequence[look.Looked], split: str) -> list[str]:
  """Returns what hinders a comparison of the runs, a line each.

  Args:
    runs: The figures of each run.
    split: The name of the split.
  """
  if len({_data(run, split) for run in runs}) == 1:
    return []
  names = dict.fromkeys(run.facts['data'] for run in runs)
  return [
    f'the runs are of different data ({", ".join(names)}): each column stands '
    'for itself'
  ]


def _data(run: look.Looked, split: str) -> tuple[Any, ...]:
  """Returns what determines the images and the classes of a run."""
  keys = ['data', 'image_size', 'fingerprint']
  keys += ['train_size', 'val_fraction'] if split == 'val' else []
  return (*(run.facts[key] for key in keys), run.class_names)


def texts(
  runs: Sequence[look.Looked], split: str
) -> tuple[str, list[list[str]]]:
  """Returns what all runs share, and the lines of each run's title.

  Args:
    runs: The figures of each run.
    split: The name of the split.
  """
  told = [
    {k: of(r.facts) for k, of in _SHARED.items() if r.facts[k] is not None}
    for r in runs
  ]
  # A run without a teacher does not differ in its teacher.
  shared = {}
  for key in _SHARED:
    values = {own[key] for own in told if key in own}
    if len(values) == 1:
      shared[key] = values.pop()
  titles = []
  labels = look.labels_of([run.path for run in runs])
  for label, run, own in zip(labels, runs, told, strict=True):
    top1 = run.facts['top1']
    first = [run.facts['method'] or 'method unknown']
    first += [] if top1 is None else [f'top-1 {top1:.2f}% on test']
    rest = ', '.join(
      [text for key, text in own.items() if key not in shared]
      + ([] if _same_sizes(runs) else [_sizes(run, split)])
    )
    titles.append(
      [
        look.short(label, _WIDE),
        ', '.join(first),
        *textwrap.wrap(rest, _WIDE)[:_MOST_LINES],
      ]
    )
  return ', '.join(shared.values()), titles


def _correlations(panels: _Panels, key: Any) -> None:
  differences = [look.difference(run) for _, run in panels]
  limit = max(np.nanmax(np.abs(d), initial=1e-6) for d in differences)
  for (axes, run), matrix in zip(panels, differences, strict=True):
    drawn = _matrix(axes, matrix, cmap='RdBu_r', vmin=-limit, vmax=limit)
    _class_ticks(axes, run.class_names, 'class', 'class')
    mean = look.mean_difference(run)
    axes.set_title(f'mean absolute difference {mean:.3f}', fontsize=8)
  _bar(key, drawn, 'difference')


def _similarities(panels: _Panels, key: Any) -> None:
  for axes, run in panels:
    assert run.cka is not None
    drawn = _matrix(axes, run.cka, cmap='viridis', vmin=0, vmax=1)
    _written(axes, drawn, run.cka, '{:.2f}'.format)
    axes.set_xticks(range(len(run.taps['student'])), run.taps['student'])
    axes.set_yticks(range(len(run.taps['teacher'])), run.taps['teacher'])
    axes.tick_params(labelsize=_SIZE)
    axes.tick_params(axis='x', rotation=90)
    axes.set_xlabel(f'student {run.facts["network"]}', fontsize=8)
    axes.set_ylabel(f'teacher {run.facts["teacher"]}', fontsize=8)
  _bar(key, drawn, 'CKA')


def _confusions(panels: _Panels, key: Any) -> None:
  from matplotlib import colors

  for axes, run in panels:
    shares = 100 * look.shares(run)
    # A root shows the few percent of an error beside the diagonal.
    scale = colors.PowerNorm(0.5, 0, 100)
    drawn = _matrix(axes, shares, cmap='Blues', norm=scale)
    _written(axes, drawn, shares, lambda x: f'{x:.0f}' if x else '')
    _class_ticks(axes, run.class_names, 'predicted class', 'true class')
    correct, images = np.trace(run.confusion), run.confusion.sum()
    axes.set_title(f'{correct} of {images} images correct', fontsize=8)
  _bar(key, drawn, '% (root scale)')


def _embeddings(name: str) -> Callable[[_Panels, Any], None]:
  """Returns the function that draws the t-SNE of a network."""

  def draw(panels: _Panels, key: Any) -> None:
    from matplotlib import lines

    most = max(len(run.class_names) for _, run in panels)
    cmap = _class_colours(most)
    for axes, run in panels:
      x, y = run.points[name].T
      drawn = axes.scatter(
        x, y, c=run.point_labels, s=7, cmap=cmap, vmin=-0.5, vmax=most - 0.5
      )
      axes.set(xticks=[], yticks=[])
      networks = {'teacher': 'teacher', 'student': 'network'}
      axes.set_xlabel(f'{name} {run.facts[networks[name]]}', fontsize=8)
    if most > _NAMED:
      _bar(key, drawn, 'class number')
      return
    named = {run.class_names for _, run in panels}
    names = named.pop() if len(named) == 1 else [str(k) for k in range(most)]
    dots = [
      lines.Line2D([], [], marker='o', ls='', ms=4, color=cmap(k), label=label)
      for k, label in enumerate(look.short(n, _LONGEST) for n in names)
    ]
    legend = key.legend(
      handles=dots,
      loc='center left',
      title='class',
      fontsize=_SIZE,
      title_fontsize=8,
      frameon=False,
      borderaxespad=0,
      handletextpad=0.2,
    )
    legend.set_in_layout(False)

  return draw


def _class_colours(count: int) -> Any:
  """Returns the colour map of a number of classes."""
  import matplotlib
  from matplotlib import colors

  name = 'tab10' if count <= 10 else 'tab20' if count <= _NAMED else 'turbo'
  cmap = matplotlib.colormaps[name]
  if count > _NAMED:
    return cmap.resampled(count)
  return colors.ListedColormap([cmap(k) for k in range(count)])


_DRAWN: dict[str, Callable[[_Panels, Any], None]] = {
  'correlation': _correlations,
  'tsne_teacher': _embeddings('teacher'),
  'tsne_student': _embeddings('student'),
  'cka': _similarities,
  'confusion': _confusions,
}


def _matrix(axes: Any, values: np.ndarray, **colours: Any) -> Any:
  """Draws a matrix, with its first row at the top."""
  axes.set_facecolor('#dddddd')  # what is NaN
  return axes.imshow(values, aspect='auto', interpolation='nearest', **colours)


def _written(
  axes: Any, drawn: Any, values: np.ndarray, form: Callable[[float], str]
) -> None:
  """Writes the entries of a small matrix, light on dark colours."""
  if max(values.shape) > _WRITTEN:
    return
  for (row, column), value in np.ndenumerate(values):
    if not np.isfinite(value) or not (text := form(value)):
      continue
    red, green, blue, _ = drawn.cmap(drawn.norm(value))
    is_dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
    axes.text(
      column,
      row,
      text,
      ha='center',
      va='center',
      fontsize=_SIZE,
      color='white' if is_dark else 'black',
    )


def _class_ticks(axes: Any, names: Sequence[str], x: str, y: str) -> None:
  """Labels rows and columns by class: all names, or about ten numbers."""
  count = len(names)
  if count <= _NAMED:
    at, texts = (
      list(range(count)),
      [look.short(name, _LONGEST) for name in names],
    )
  else:
    step = next(s for s in _STEPS if count <= 12 * s)
    at = list(range(0, count, step))
    texts = [str(k) for k in at]
    x, y = f'number of the {x}', f'number of the {y}'
  axes.set_xlabel(x, fontsize=8)
  axes.set_ylabel(y, fontsize=8)
  axes.set_xticks(at, texts)
  axes.set_yticks(at, texts)
  axes.tick_params(labelsize=_SIZE)
  if max(map(len, texts)) > 3:
    axes.tick_params(axis='x', rotation=90)


_STEPS = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


def _bar(key: Any, drawn: Any, text: str) -> None:
  """Draws the colour bar of a row into its last column."""
  place = key.inset_axes([0.0, 0.1, 0.13, 0.8])
  place.set_in_layout(False)
  bar = key.figure.colorbar(drawn, cax=place)
  bar.set_label(text, fontsize=8)
  bar.ax.tick_params(labelsize=_SIZE)
