"""What runs of a dense task predict, as a picture: a row for each image."""

import io
import textwrap
from typing import Any, NamedTuple

import numpy as np

from kd_jax import tasks
from kd_jax.export import predict_template
from kd_jax.losses import dense
from kd_jax.study import look, look_dense

_WIDTH = 10.0  # of the picture, in inches, where that leaves panels their least
_LEAST, _MOST = 1.55, 2.5  # the side of a panel, in inches
_NAMES = 24  # characters of a line of a column's title
_LONGEST = 14  # characters of a class's name
_OPAQUE = 0.75  # of a mask over the image
_DARK = 0.6  # of the image below masks
_VOID = (255, 255, 255)


class Column(NamedTuple):
  """A network that has a column.

  Attributes:
    title: The lines of its title.
    network: The network.
  """

  title: list[str]
  network: look_dense.Network


def png(together: look_dense.Together, split: str) -> bytes:
  """Returns the picture of several runs as a PNG file.

  Args:
    together: The runs, and the images that they are shown on.
    split: The name of the split.
  """
  image = io.BytesIO()
  draw(together, split).savefig(image, format='png', dpi=130)
  return image.getvalue()


def draw(together: look_dense.Together, split: str) -> Any:
  """Returns the picture of several runs as a figure of matplotlib.

  It has a row for each image, and columns for the image, the truth, each
  teacher and each run.

  Args:
    together: The runs, and the images that they are shown on.
    split: The name of the split.
  """
  from matplotlib import figure

  networks = columns(together)
  wide, high = 2 + len(networks), len(together.images)
  side = min(_MOST, max(_LEAST, _WIDTH / wide))
  picture = figure.Figure(
    figsize=(wide * side, high * side + 1.2), layout='constrained'
  )
  title = _title(together, split, round(wide * side * 11))
  picture.suptitle(title, fontsize=10)
  grid = picture.subplots(high, wide, squeeze=False)
  titles = [['image'], ['truth'], *(column.title for column in networks)]
  for axes, lines in zip(grid[0], titles, strict=True):
    axes.set_title('\n'.join(lines), fontsize=8.5)
  shown: set[int] = set()
  for row, image in enumerate(together.images):
    target = together.targets[row]
    for axes in grid[row]:
      axes.set(xticks=[], yticks=[])
    grid[row, 0].imshow(image)
    if together.info.task == 'segmentation':
      masks = [target['label'], *(n.network.predicted[row] for n in networks)]
      for axes, mask in zip(grid[row, 1:], masks, strict=True):
        axes.imshow(painted(image, mask, len(together.info.class_names)))
        shown |= {*np.unique(mask).tolist()}
    else:
      rows = [objects(target), *(n.network.predicted[row] for n in networks)]
      for axes, found in zip(grid[row, 1:], rows, strict=True):
        axes.imshow(image)
        _boxes(axes, found, together.info.class_names)
  if together.info.task == 'segmentation':
    _legend(picture, shown, together.info.class_names)
  return picture


def columns(together: look_dense.Together) -> list[Column]:
  """Returns the networks that have a column, teachers first.

  A teacher of several runs has one column.

  Args:
    together: The runs.
  """
  labels = look.labels_of([run.path for run in together.runs])
  metric = tasks.find(together.info.task).headline
  teachers: dict[int, tuple[look_dense.Network, list[str]]] = {}
  students = []
  for label, run in zip(labels, together.runs, strict=True):
    if teacher := run.networks.get('teacher'):
      teachers.setdefault(id(teacher), (teacher, []))[1].append(label)
    student = run.networks['student']
    method = run.facts['method'] or 'method unknown'
    students.append(Column([label, method, _said(student, metric)], student))
  first = []
  for teacher, of in teachers.values():
    whose = 'teacher' if len(teachers) == 1 else f'teacher of {", ".join(of)}'
    name = teacher.trained.facts['network']
    first.append(Column([whose, name, _said(teacher, metric)], teacher))
  return [
    Column([look.short(line, _NAMES) for line in title], network)
    for title, network in [*first, *students]
  ]


def _said(network: look_dense.Network, metric: tasks.Metric) -> str:
  return f'{metric.text} {network.figures[metric.name]:.2f}%'


def _title(together: look_dense.Together, split: str, width: int) -> str:
  info = together.info
  metric = tasks.find(info.task).headline.text
  students = {run.facts['network'] for run in together.runs}
  parts = [f'{info.name} ({info.image_size} pixels)']
  if len(students) == 1:
    parts.append(f'student {students.pop()}')
  count = together.runs[0].networks['student'].figures['images']
  parts.append(
    f'the first {len(together.images)} images of {split}, {metric} of {count}'
  )
  if info.task == 'detection':
    parts.append(
      f'detections with a score above {look_dense.SCORE}; dashed: difficult'
    )
  return textwrap.fill(', '.join(parts), width)


def colours(count: int) -> np.ndarray:
  """Returns Pascal VOC's colours of classes, lightened, [count,3] f64, 0..255.

  The first is black, for the background.

  Args:
    count: The number of colours.
  """
  palette = np.array(predict_template.palette(), float).reshape(-1, 3)
  chosen = palette[np.arange(count) % len(palette)]
  lighter = chosen + 0.35 * (255 - chosen)
  return np.where(np.arange(count)[:, None] > 0, lighter, chosen)


def painted(image: np.ndarray, mask: np.ndarray, count: int) -> np.ndarray:
  """Returns a mask over a darkened image in grey, [H,W,3] u8.

  The first class is not painted, and void is white.

  Args:
    image: The image, [H,W,3] u8.
    mask: The classes, [H,W] u8.
    count: The number of classes.
  """
  grey = _DARK * image.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
  void = mask == dense.VOID
  colour = colours(count)[np.where(void, 0, mask)]
  over = _OPAQUE * colour + (1 - _OPAQUE) * grey
  over = np.where((mask > 0)[..., None], over, grey)
  over[void] = _VOID
  return over.round().astype(np.uint8)


def objects(target: dict[str, np.ndarray]) -> np.ndarray:
  """Returns an image's objects as rows of detections, [G,6] f32.

  The score is NaN, or -1 where the object is difficult.

  Args:
    target: 'label' [M], 'boxes' [M,4] and 'difficult' [M] of the image.
  """
  there = target['label'] >= 0
  scores = np.where(target['difficult'], -1.0, np.nan)
  rows = [target['label'][:, None], scores[:, None], target['boxes']]
  return np.concatenate(rows, axis=1)[there].astype(np.float32)


def _boxes(axes: Any, rows: np.ndarray, names: tuple[str, ...]) -> None:
  """Draws objects or detections [D,6] with their names, and their scores."""
  from matplotlib import patches

  width, height = axes.get_xlim()[1] + 0.5, axes.get_ylim()[0] + 0.5
  for label, score, *box in rows[::-1]:  # the strongest on top
    colour = colours(len(names) + 1)[int(label) + 1] / 255
    x1, x2 = (width * np.clip(x, 0, 1) - 0.5 for x in box[::2])
    y1, y2 = (height * np.clip(y, 0, 1) - 0.5 for y in box[1::2])
    line = '--' if score < 0 else '-'
    style = {'fill': False, 'lw': 1.5, 'ls': line, 'edgecolor': colour}
    axes.add_patch(patches.Rectangle((x1, y1), x2 - x1, y2 - y1, **style))
    text = look.short(names[int(label)], _LONGEST)
    text += f' {score:.2f}' if score > 0 else ''
    is_low = y1 > 0.07 * height
    is_right = x1 > 0.7 * width
    axes.text(
      x2 if is_right else x1,
      y1,
      text,
      fontsize=7,
      va='bottom' if is_low else 'top',
      ha='right' if is_right else 'left',
      bbox={'facecolor': colour, 'edgecolor': 'none', 'pad': 0.8},
      color='white' if colour @ (0.3, 0.59, 0.11) < 0.5 else 'black',
    )


def _legend(picture: Any, shown: set[int], names: tuple[str, ...]) -> None:
  """Draws the colours of the classes that are shown, and of void."""
  from matplotlib import patches

  every = colours(len(names)) / 255
  keys = {
    look.short(names[k], _LONGEST): every[k]
    for k in sorted(shown)
    if 0 < k < len(names)
  }
  if dense.VOID in shown:
    keys['void'] = np.array(_VOID) / 255
  picture.legend(
    handles=[
      patches.Patch(facecolor=colour, edgecolor='grey', label=name)
      for name, colour in keys.items()
    ],
    loc='outside lower center',
    ncols=min(len(keys), 11) or 1,
    fontsize=8,
    frameon=False,
    handlelength=1.2,
    columnspacing=1.2,
  )
