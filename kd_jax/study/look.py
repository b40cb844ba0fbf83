"""The figures of a finished run that papers on distillation show.

They are the correlations of logits, the features of t-SNE, CKA between taps and
the confusion matrix; `look_picture` draws them.
"""

from collections.abc import Sequence
import contextlib
import math
import os
import pathlib
from typing import Any, NamedTuple

from etils import epath
import numpy as np

from kd_jax import data, errors
from kd_jax.data import source, stream
from kd_jax.export import artifact
from kd_jax.runtime import sharding
from kd_jax.study import similarity, tapped
from kd_jax.training import datasets, measure, restore

LEAST_IMAGES = 10  # that features are read of
MOST_EMBEDDED = 1000  # images of t-SNE, whose time grows with them
# The kinds of pictures that need a teacher.
OF_TEACHER = ('correlation', 'tsne_teacher', 'cka')
_PERPLEXITY = 30.0
_BATCH = 128  # images of a step, and of a batch of CKA, at most
_POOLED = 'pooled'


class Options(NamedTuple):
  """What of each run is looked at.

  Attributes:
    split: The split of the run's data set: 'test' or 'val'.
    images: The number of images whose features are read, at most.
    data_dir: The folder of prepared data sets; '' is the default.
    workers: The number of processes that decode; 0 decodes in this process.
    allow_imports: Whether runs may name code to import; see
      `training.imports`.
  """

  split: str = 'test'
  images: int = 2000
  data_dir: str = ''
  workers: int = 0
  allow_imports: bool = False


class Looked(NamedTuple):
  """The figures of a run.

  Attributes:
    path: The path of the run, as it was given.
    facts: What is known of the run: 'method', 'top1' and others.
    class_names: The names of the K classes, in the order of the matrices.
    images: How many images were read, by what was computed of them.
    confusion: The number of images by label and prediction, [K,K] i64.
    correlations: The correlation of logits, [K,K] f64, by 'teacher' and
      'student'; empty without a teacher.
    taps: The taps by 'teacher' and 'student', in the order of computation;
      empty without a teacher.
    cka: The CKA of the teacher's taps with the student's, [R,C] f64; None
      without a teacher.
    points: The t-SNE of the pooled features, [T,2] f32, by 'teacher' and
      'student'.
    point_labels: The classes of the T points, [T] i32.
    left_out: Why a kind of picture is left out, by 'correlation', 'cka',
      'tsne_teacher' and 'tsne_student'.
  """

  path: str
  facts: dict[str, Any]
  class_names: tuple[str, ...]
  images: dict[str, int]
  confusion: np.ndarray
  correlations: dict[str, np.ndarray]
  taps: dict[str, list[str]]
  cka: np.ndarray | None
  points: dict[str, np.ndarray]
  point_labels: np.ndarray
  left_out: dict[str, str]


class Opened(NamedTuple):
  """A run or an export with its teacher and its data, not yet read.

  Attributes:
    path: Its path, as it was given.
    student: What it deploys.
    teacher: Its teacher, or the given one; None if there is none.
    why: Why there is no teacher; '' if there is one.
    source: Its data set.
    given: The path of the given teacher; '' if it is the run's own.
    note: Which of several teachers is shown; '' where there is no choice.
  """

  path: str
  student: artifact.Trained
  teacher: artifact.Trained | None
  why: str
  source: source.Source
  given: str = ''
  note: str = ''


def open_run(path: str, options: Options, teacher: str = '') -> Opened:
  """Opens a finished run or an export, its teacher and its data set.

  Args:
    path: The folder of the run or of the export.
    options: What is looked at.
    teacher: The name of one of the run's teachers, or the folder of a run or an
      export whose network takes the place of the run's teacher; '' is the run's
      own, the first where it has several.

  Raises:
    UsageError: The path holds neither of them, the data set is not available,
      or the teacher's classes or image size are not the run's.
  """
  allow = options.allow_imports
  student = restore.load(path, allow_imports=allow)
  is_export = artifact.is_export(epath.Path(path).expanduser())
  names = [] if is_export else [*student.facts.get('teachers', {})]
  name = teacher if teacher in names else ''
  found: artifact.Trained | None = None
  why = note = ''
  if teacher and not name:
    found = given = restore.load(teacher, allow_imports=allow)
    check_teacher(teacher, given, student)
  elif is_export:
    why = 'an export holds no teacher'
  else:
    found = restore.teacher(path, allow_imports=allow, name=name)
    why = '' if found else f'{_result(student, "method")} has no teacher'
    if len(names) > 1 and not name:
      others = ' or '.join(names[1:])
      note = f'{path}: teacher {names[0]} is shown; --teacher shows {others}'
  opened = datasets.open_data(
    student, data_dir=options.data_dir, allow_imports=allow
  )
  splits = ('test', *(['val'] if opened.info.num_val else []))
  if options.split not in splits:
    raise errors.unknown(f'--split of {path}:', options.split, splits)
  other = '' if name else teacher
  return Opened(path, student, found, why, opened, other, note)


def check_teacher(
  path: str, teacher: artifact.Trained, student: artifact.Trained
) -> None:
  """Checks that a teacher's task, classes and image size are a student's.

  Args:
    path: The teacher's path, for the message.
    teacher: The teacher.
    student: The student.

  Raises:
    UsageError: It is not.
  """
  tasks = [x.facts.get('task', 'classification') for x in (teacher, student)]
  if tasks[0] != tasks[1]:
    raise errors.UsageError(
      f'--teacher={path}: its network is for {tasks[0]}, and that of the run '
      f'for {tasks[1]}: give a teacher of the same data set'
    )
  for key, text in (('class_names', 'classes'), ('image_size', 'pixels')):
    theirs, ours = teacher.facts[key], student.facts[key]
    if key == 'class_names':
      theirs, ours = len(theirs), len(ours)
    if theirs != ours:
      raise errors.UsageError(
        f'--teacher={path}: its network has {theirs} {text}, and that of the '
        f'run {ours}: give a teacher of the same data set'
      )


def look(opened: Opened, options: Options) -> Looked:
  """Returns the figures of a run.

  The confusion matrix is of the whole split. All else is of a fixed stratified
  subset of `options.images` images, if the split has more.

  Args:
    opened: The run.
    options: What is looked at.

  Raises:
    UsageError: A network cannot be built from what the folder says of it, or
      the split has too few images.
  """
  student, teacher = opened.student, opened.teacher
  info = opened.source.info
  images = opened.source.split(options.split)
  if len(images) < LEAST_IMAGES:
    raise errors.UsageError(
      f'{info.name} {options.split} has {len(images)} images; a look needs '
      f'{LEAST_IMAGES} or more'
    )
  names = tuple(student.facts['class_names'])
  chosen = chosen_images(images.labels, options.images)
  networks = {'student': tapped.Network(student)}
  if teacher:
    networks['teacher'] = tapped.Network(teacher)
  read = _read(networks, images, info, chosen, options.workers)
  numbers = measure.order(names, info.class_names)
  labels = numbers[read.labels]
  logits = {name: x['logits'] for name, x in read.kept.items()}
  if teacher:  # its classes in the order of the student's
    columns = measure.order(teacher.facts['class_names'], names)
    logits['teacher'] = logits['teacher'][:, columns]
  left_out = dict.fromkeys(OF_TEACHER, opened.why) if not teacher else {}
  points = {}
  embedded = slice(0, MOST_EMBEDDED)
  for name, values in read.kept.items():
    if _POOLED in values:
      points[name] = embedding(values[_POOLED][embedded])
    else:
      left_out[f'tsne_{name}'] = (
        f'{networks[name].trained.facts["network"]} has no tap {_POOLED!r}'
      )
  counts = {'split': len(labels), 'features': len(chosen)}
  taps = {name: network.taps for name, network in networks.items()}
  return Looked(
    path=opened.path,
    facts=facts_of(opened),
    class_names=names,
    images=counts | {'tsne': len(chosen[embedded])},
    confusion=similarity.confusion(labels, read.predicted, len(names)),
    correlations={n: similarity.correlation(x) for n, x in logits.items()}
    if teacher
    else {},
    taps=taps if teacher else {},
    cka=read.cka.matrix(taps['teacher'], taps['student']) if teacher else None,
    points=points,
    point_labels=labels[: len(chosen)][embedded],
    left_out=left_out,
  )


def chosen_images(labels: np.ndarray, most: int) -> np.ndarray:
  """Returns the images whose features are read, as indices in a fixed order.

  They are a stratified subset, or all images if there are no more than `most`.
  They are shuffled, so that a batch of CKA has images of all classes.

  Args:
    labels: The classes of the split's images, [N] i32.
    most: The number of images, at most.
  """
  seed = data.SUBSET_SEED
  chosen = source.stratified(labels, min(most, len(labels)), seed)
  return np.random.Generator(np.random.Philox(seed)).permutation(chosen)


def embedding(pooled: np.ndarray) -> np.ndarray:
  """Returns the t-SNE of pooled features [T,C], [T,2] f32.

  It starts from the first two principal components, with a fixed seed.
  """
  from sklearn import manifold
  import threadpoolctl

  tsne = manifold.TSNE(
    perplexity=perplexity(len(pooled)), init='pca', random_state=0
  )
  # Of so few points, more threads mostly wait for each other.
  with threadpoolctl.threadpool_limits(1):
    return np.asarray(tsne.fit_transform(pooled), np.float32)


def perplexity(count: int) -> float:
  """Returns the perplexity of t-SNE: 30, or a third of a few images."""
  return min(_PERPLEXITY, (count - 1) / 3)


class _Read(NamedTuple):
  """What is kept of the networks' features.

  Attributes:
    labels: The data set's classes of all images, those of the chosen first.
    predicted: The student's predictions for them, [N].
    kept: By network, 'logits' [n,K] and 'pooled' [n,C] of the chosen images.
    cka: The CKA of the teacher's taps with the student's.
  """

  labels: np.ndarray
  predicted: np.ndarray
  kept: dict[str, dict[str, np.ndarray]]
  cka: similarity.Cka


def _read(
  networks: dict[str, tapped.Network],
  images: source.Images,
  info: source.Info,
  chosen: np.ndarray,
  workers: int,
) -> _Read:
  """Reads the split once, the chosen images first.

  No more than a batch of feature maps is held at a time.
  """
  order = np.concatenate([chosen, np.setdiff1d(np.arange(len(images)), chosen)])
  # Batches of CKA of nearly the same size.
  size = math.ceil(len(chosen) / math.ceil(len(chosen) / _BATCH))
  split = stream.Streamed(
    source.Subset(images, order), info, sharding.make_mesh(1), workers=workers
  )
  labels, predicted = [], []
  kept: dict[str, dict[str, list[np.ndarray]]] = {n: {} for n in networks}
  cka = similarity.Cka()
  done = 0
  with contextlib.closing(split.eval_feeds(size)) as feeds:
    for feed in feeds:
      real = feed['mask'] > 0
      labels.append(feed['label'][real])
      taps = {'student': networks['student'].features(feed['image'])}
      logits = np.asarray(taps['student']['logits'])[real]
      predicted.append(logits.argmax(axis=-1))
      count = min(len(logits), len(chosen) - done)
      done += len(logits)
      if count <= 0:
        continue
      if 'teacher' in networks:
        taps['teacher'] = networks['teacher'].features(feed['image'])
      batch = {
        name: {tap: np.asarray(x)[:count] for tap, x in values.items()}
        for name, values in taps.items()
      }
      if 'teacher' in networks:
        cka.add(batch['teacher'], batch['student'])
      for name, values in batch.items():
        for tap in {'logits', _POOLED} & values.keys():
          kept[name].setdefault(tap, []).append(values[tap])
  return _Read(
    np.concatenate(labels),
    np.concatenate(predicted),
    {
      name: {tap: np.concatenate(x) for tap, x in values.items()}
      for name, values in kept.items()
    },
    cka,
  )


def _result(trained: artifact.Trained, key: str) -> Any:
  return trained.facts.get('result', {}).get(key)


def facts_of(opened: Opened) -> dict[str, Any]:
  """Returns what is known of a run, as far as its folder says it.

  Args:
    opened: The run.
  """
  facts, info = opened.student.facts, opened.source.info
  changed = datasets.changed(opened.student, opened.source)
  teacher = opened.teacher
  return {
    'method': _result(opened.student, 'method'),
    'network': facts['network'],
    'network_args': facts['network_args'],
    'teacher': teacher.facts['network'] if teacher else None,
    'teacher_path': opened.given or None,
    'data': info.name,
    'image_size': info.image_size,
    **{key: facts['data'][key] for key in ('train_size', 'val_fraction')},
    'train_images': _result(opened.student, 'train_images'),
    'epochs': _result(opened.student, 'epochs'),
    'seed': _result(opened.student, 'seed'),
    'fingerprint': info.fingerprint,
    **({'changed': changed} if changed else {}),
    'top1': facts.get('accuracy', {}).get('top1'),
  }


def difference(run: Looked) -> np.ndarray:
  """Returns the teacher's correlations minus the student's, [K,K] f64."""
  return run.correlations['teacher'] - run.correlations['student']


def mean_difference(run: Looked) -> float:
  """Returns the mean absolute difference of two classes' correlations.

  The diagonal, where both are 1, does not count; NaN does not either.
  """
  pairs = np.abs(difference(run))[~np.eye(len(run.class_names), dtype=bool)]
  known = pairs[np.isfinite(pairs)]
  return float(known.mean()) if known.size else math.nan


def shares(run: Looked) -> np.ndarray:
  """Returns the confusion matrix in parts of each row, [K,K] f64.

  The row of a class without images is NaN.
  """
  totals = run.confusion.sum(axis=1, keepdims=True)
  return run.confusion / np.where(totals > 0, totals, np.nan)


def figures(run: Looked) -> dict[str, Any]:
  """Returns the figures of a run as a JSON value; NaN is null.

  Args:
    run: The figures.
  """
  told: dict[str, Any] = {
    'path': run.path,
    **run.facts,
    'images': run.images,
    'class_names': list(run.class_names),
    'left_out': run.left_out,
    'confusion': {'counts': run.confusion.tolist()},
  }
  if run.correlations:
    matrices = {**run.correlations, 'difference': difference(run)}
    told['correlation'] = {n: listed(x) for n, x in matrices.items()}
    mean = mean_difference(run)
    told['correlation']['mean_absolute_difference'] = (
      mean if math.isfinite(mean) else None
    )
  if run.cka is not None:
    told['cka'] = {
      'teacher_taps': run.taps['teacher'],
      'student_taps': run.taps['student'],
      'values': listed(run.cka),
    }
  if run.points:
    told['tsne'] = {
      'perplexity': perplexity(run.images['tsne']),
      'labels': run.point_labels.tolist(),
      **{name: listed(points) for name, points in run.points.items()},
    }
  return told


def listed(values: np.ndarray) -> list[Any]:
  """Returns an array as lists, with six decimals and None for NaN."""
  if values.ndim > 1:
    return [listed(row) for row in values]
  return [round(x, 6) if math.isfinite(x) else None for x in values.tolist()]


def labels_of(paths: Sequence[str]) -> list[str]:
  """Returns the shortest ends of paths that tell them apart.

  Args:
    paths: Paths of folders; equal ones get equal labels.
  """
  parts = [pathlib.PurePath(os.path.abspath(path)).parts for path in paths]
  labels = []
  for own in parts:
    length = 1
    while length < len(own) and any(
      other != own and other[-length:] == own[-length:] for other in parts
    ):
      length += 1
    labels.append(str(pathlib.PurePath(*own[-length:])))
  return labels


def short(text: str, length: int) -> str:
  """Returns a text whose middle is left out where it is too long.

  Args:
    text: The text.
    length: The characters that it may have.
  """
  if len(text) <= length:
    return text
  half = (length - 1) // 2
  return f'{text[: length - 1 - half]}…{text[-half:]}'
