"""What finished runs of segmentation and detection predict, and their figures.

All runs are of one data set, so that they predict the same images;
`look_dense_picture` draws them.
"""

from collections.abc import Sequence
import contextlib
from typing import Any, NamedTuple

import numpy as np

from kd_jax import data, errors
from kd_jax.data import source, stream
from kd_jax.export import artifact
from kd_jax.runtime import sharding
from kd_jax.study import look, similarity, tapped
from kd_jax.training import measure

SHOWN = 4  # images, the first of the split
SCORE = 0.5  # above which a detection is drawn
_COMPARED = 128  # images whose taps are compared, at most
_PIXELS = 2**20  # of a batch, about
_CONSTANT = 'priors'  # the tap of a detector that no image changes


class Network(NamedTuple):
  """A network of a run, and what it predicts.

  Classes are in the order of the data set.

  Attributes:
    trained: The network.
    figures: What `measure.accuracy` returns of the whole split.
    confusion: The labelled pixels by label and prediction, [K,K] i64; None in
      detection.
    predicted: Of each shown image the mask [H,W] u8, or the detections [D,6]
      f32: class, score and box in fractions of the image, by falling score.
  """

  trained: artifact.Trained
  figures: dict[str, Any]
  confusion: np.ndarray | None
  predicted: list[np.ndarray]


class Looked(NamedTuple):
  """A run whose networks have been looked at.

  Attributes:
    path: The path of the run, as it was given.
    facts: What is known of the run; see `look.facts_of`.
    networks: The networks by 'student' and 'teacher', if there is one. Runs
      with the same teacher share one object.
    taps: The taps that are compared, by 'teacher' and 'student'; empty without
      a teacher.
    cka: The CKA of the teacher's taps with the student's, [R,C] f64; None
      without a teacher.
    compared: The number of images whose taps are compared.
    left_out: Why there is no teacher; '' if there is one.
  """

  path: str
  facts: dict[str, Any]
  networks: dict[str, Network]
  taps: dict[str, list[str]]
  cka: np.ndarray | None
  compared: int
  left_out: str


class Together(NamedTuple):
  """Several runs, and the images that they are shown on.

  Attributes:
    info: The facts of the data set.
    images: The shown images, [H,W,3] u8 each.
    targets: Their targets by the keys of a batch; see `source.Arrays`.
    runs: The runs.
  """

  info: source.Info
  images: list[np.ndarray]
  targets: list[dict[str, np.ndarray]]
  runs: list[Looked]


def check(opened: Sequence[look.Opened]) -> None:
  """Checks that runs are all for classification, or all of one data set.

  Args:
    opened: The runs.

  Raises:
    UsageError: They are not.
  """
  first = opened[0].source.info
  for other in opened[1:]:
    info = other.source.info
    if {info.task, first.task} == {'classification'}:
      continue
    if info.identity() != first.identity():
      raise errors.UsageError(
        f'{other.path} is of {info.name} ({info.task}, {info.image_size} '
        f'pixels) and {opened[0].path} of {first.name} ({first.task}, '
        f'{first.image_size} pixels): runs of a dense task are shown on the '
        'same images; look at them one by one'
      )


def look_at(opened: Sequence[look.Opened], options: look.Options) -> Together:
  """Returns what runs predict, and their figures.

  The figures are of the whole split. CKA is of a fixed random subset of 128
  images, or of `options.images` if that is less.

  Args:
    opened: The runs, which `check` accepts.
    options: What is looked at.

  Raises:
    RunError: A network's outputs are no finite numbers.
    UsageError: A network cannot be built from what the folder says of it, or
      the split has too few images.
  """
  info = opened[0].source.info
  images = opened[0].source.split(options.split)
  if len(images) < look.LEAST_IMAGES:
    raise errors.UsageError(
      f'{info.name} {options.split} has {len(images)} images; a look needs '
      f'{look.LEAST_IMAGES} or more'
    )
  shown = [
    source.fitted(*images.read(i), info.image_size) for i in range(SHOWN)
  ]
  pixels = [image for image, _ in shown]
  known: list[Network] = []

  how = _protocol(opened)

  def network(trained: artifact.Trained) -> Network:
    for other in known:
      if same(other.trained, trained):
        return other
    known.append(_network(trained, images, info, pixels, options.workers, how))
    return known[-1]

  runs = []
  for run in opened:
    networks = {'student': network(run.student)}
    if run.teacher:
      networks['teacher'] = network(run.teacher)
    runs.append(_looked(run, networks, images, options))
  return Together(info, pixels, [target for _, target in shown], runs)


def _protocol(opened: Sequence[look.Opened]) -> str:
  """Returns how all networks are evaluated; see `shaped.PROTOCOLS`.

  Raises:
    UsageError: The runs were evaluated in different ways.
  """
  found = {
    'square'  # the program of an export takes squares
    if 'format' in run.student.facts
    else run.student.facts.get('accuracy', {}).get('protocol', 'square')
    for run in opened
  }
  if len(found) > 1:
    raise errors.UsageError(
      f'the runs were evaluated by different protocols ({", ".join(found)}): '
      'look at those of one config.data.eval_protocol'
    )
  return found.pop()


def same(a: artifact.Trained, b: artifact.Trained) -> bool:
  """Returns whether two networks have the same weights.

  Args:
    a: A network.
    b: Another, or the same.
  """
  keys = ('network', 'network_args', 'class_names')
  return (
    all(a.facts[key] == b.facts[key] for key in keys)
    and a.weights.keys() == b.weights.keys()
    and all(np.array_equal(a.weights[key], b.weights[key]) for key in a.weights)
  )


def _network(
  trained: artifact.Trained,
  images: source.Images,
  info: source.Info,
  shown: Sequence[np.ndarray],
  workers: int,
  protocol: str,
) -> Network:
  figures, sums = measure.measured(
    trained, images, info, _batch(info), workers, protocol
  )
  order = measure.order(trained.facts['class_names'], info.class_names)
  classes = [
    {**figures['classes'][k], 'name': name}
    for k, name in zip(order, info.class_names, strict=True)
  ]
  confusion = None
  if 'confusion' in sums:
    confusion = sums['confusion'][np.ix_(order, order)].astype(np.int64)
  number = np.argsort(order)  # the data set's number of the network's classes
  predicted = predictions(trained, info.task, np.stack(shown), number)
  return Network(trained, {**figures, 'classes': classes}, confusion, predicted)


def predictions(
  trained: artifact.Trained, task: str, images: np.ndarray, number: np.ndarray
) -> list[np.ndarray]:
  """Returns what a network predicts of each image; see `Network.predicted`.

  Args:
    trained: The network.
    task: The name of its task.
    images: The images, [N,H,W,3] u8.
    number: The number to give to each of the network's classes, [K].
  """
  if task == 'segmentation':
    masks, _ = artifact.classes(trained.forward)(trained.weights, images)
    return list(number.astype(np.uint8)[np.asarray(masks)])
  every = artifact.detections(trained.forward)(trained.weights, images)
  chosen = []
  for rows in np.array(every):
    rows = rows[(rows[:, 0] >= 0) & (rows[:, 1] > SCORE)]
    rows[:, 0] = number[rows[:, 0].astype(int)]
    chosen.append(rows)
  return chosen


def _batch(info: source.Info) -> int:
  """Returns the images of a batch; CKA needs four."""
  return min(64, max(similarity.LEAST_IMAGES, _PIXELS // info.image_size**2))


def _looked(
  run: look.Opened,
  networks: dict[str, Network],
  images: source.Images,
  options: look.Options,
) -> Looked:
  taps: dict[str, list[str]] = {}
  cka, count = None, 0
  if run.teacher:
    count = min(_COMPARED, options.images, len(images))
    both = {name: tapped.Network(x.trained) for name, x in networks.items()}
    taps = {
      name: [tap for tap in network.taps if tap != _CONSTANT]
      for name, network in both.items()
    }
    chosen = np.random.Generator(np.random.Philox(data.SUBSET_SEED))
    index = chosen.permutation(len(images))[:count]
    compared = _compared(both, taps, source.Subset(images, index), run, options)
    cka = compared.matrix(taps['teacher'], taps['student'])
  facts = look.facts_of(run)
  facts.pop('top1')  # of classification alone
  return Looked(run.path, facts, networks, taps, cka, count, run.why)


def _compared(
  networks: dict[str, tapped.Network],
  taps: dict[str, list[str]],
  images: source.Images,
  run: look.Opened,
  options: look.Options,
) -> similarity.Cka:
  """Returns the CKA of a teacher's taps with a student's, over some images."""
  info = run.source.info
  mesh = sharding.make_mesh(1)
  split = stream.Streamed(images, info, mesh, workers=options.workers)
  cka = similarity.Cka()
  with contextlib.closing(split.eval_feeds(_batch(info))) as feeds:
    for feed in feeds:
      real = feed['mask'] > 0
      values = {}
      for name, network in networks.items():
        features = network.features(feed['image'])
        values[name] = {t: np.asarray(features[t])[real] for t in taps[name]}
      cka.add(values['teacher'], values['student'])
  return cka


def figures(together: Together) -> list[dict[str, Any]]:
  """Returns the figures of each run as JSON values; NaN is null.

  Args:
    together: The runs.
  """
  return [_figures(run, together.info) for run in together.runs]


def _figures(run: Looked, info: source.Info) -> dict[str, Any]:
  told: dict[str, Any] = {
    'path': run.path,
    **run.facts,
    'class_names': list(info.class_names),
    'left_out': run.left_out,
    'networks': {},
  }
  for name, network in run.networks.items():
    told['networks'][name] = dict(network.figures)
    if network.confusion is not None:
      told['networks'][name]['confusion'] = network.confusion.tolist()
  if run.cka is not None:
    told['cka'] = {
      'images': run.compared,
      'teacher_taps': run.taps['teacher'],
      'student_taps': run.taps['student'],
      'values': look.listed(run.cka),
    }
  return told
