"""The learning curves of a run, as a picture."""

from collections.abc import Mapping, Sequence
import io
from typing import Any

from etils import epath

from kd_jax import tasks

# Colours that people with a colour vision deficiency tell apart (Okabe, Ito).
_COLOURS = (
  '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9'
)  # fmt: skip
_STYLES = ('-', '--', '-.', ':')
_SPLITS = {'train': ('#56b4e9', '-'), 'val': ('#009e73', '--')}
_SPLITS['test'] = ('#0072b2', '-')
_KNOWN = (('#d55e00', '--'), ('#555555', ':'))
_WEIGHTED = 'train/weighted/'


def curves(
  records: Sequence[Mapping[str, Any]],
  path: epath.Path,
  metric: tasks.Metric,
  title: str,
  known: Mapping[str, float],
) -> None:
  """Draws losses and accuracies over epochs into a PNG file.

  Args:
    records: The records of metrics.jsonl.
    path: The PNG file.
    metric: What is drawn beside the losses, in percent.
    title: The title of the picture.
    known: Values of the metric on the test split by the name of a network, each
      of which is a horizontal line.
  """
  from matplotlib import figure

  picture = figure.Figure(figsize=(10, 4.2), layout='constrained')
  picture.suptitle(title)
  left, right = picture.subplots(1, 2)
  _losses(left, [r for r in records if 'train/total' in r])
  for split, (colour, style) in _SPLITS.items():
    key = f'{split}/{metric.name}'
    measured = [record for record in records if key in record]
    if measured:
      right.plot(
        [record['epoch'] for record in measured],
        [record[key] for record in measured],
        color=colour,
        linestyle=style,
        marker=_marker(measured),
        label=split,
      )
  for i, (name, value) in enumerate(known.items()):
    colour, style = _KNOWN[i % len(_KNOWN)]
    label = f'{name} (test) {value:.2f}'
    right.axhline(value, color=colour, linestyle=style, label=label)
  right.set(xlabel='epoch', ylabel=f'{metric.text} (%)')
  for axes in (left, right):
    axes.grid(visible=True, alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
      axes.legend(fontsize='small')
  image = io.BytesIO()
  picture.savefig(image, format='png', dpi=120)
  path.write_bytes(image.getvalue())


def _losses(axes: Any, records: Sequence[Mapping[str, Any]]) -> None:
  """Draws the total and the weighted terms that are not 0 throughout."""
  values = {
    name: [record.get(name, float('nan')) for record in records]
    for name in sorted({name for record in records for name in record})
    if name.startswith(_WEIGHTED) and any(r.get(name) for r in records)
  }
  epochs = [record['epoch'] for record in records]
  if records:
    total = [record['train/total'] for record in records]
    marker = _marker(records)
    axes.plot(
      epochs, total, color='black', lw=2.5, marker=marker, label='total'
    )
    values = {'train/total': total} | values
  for i, (name, shown) in enumerate(list(values.items())[1:]):
    axes.plot(
      epochs,
      shown,
      color=_COLOURS[i % len(_COLOURS)],
      linestyle=_STYLES[i % len(_STYLES)],
      marker=_marker(records),
      label=name.removeprefix(_WEIGHTED),
    )
  # A likelihood can be negative, which a logarithm does not show.
  positive = all(x > 0 for shown in values.values() for x in shown if x == x)
  axes.set(
    xlabel='epoch',
    ylabel='weighted loss, training',
    yscale='log' if positive else 'linear',
  )


def _marker(records: Sequence[Any]) -> str:
  """Returns a marker where a line would have few points."""
  return '.' if len(records) <= 30 else ''
