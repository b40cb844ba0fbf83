"""`kd-jax look` on runs of dense tasks: figures, columns and pictures."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import errors
from kd_jax.cli import look as command
from kd_jax.data import source
from kd_jax.data.sets import scenes
from kd_jax.export import artifact
from kd_jax.losses import dense
from kd_jax.study import look, look_dense, look_dense_picture
from tests import few_scenes

NAMES = tuple(few_scenes.info().class_names)
# A network may number the classes otherwise than the data set.
TURNED = NAMES[::-1]


def forward(weights, images):
  """Logits that say the class of a pixel by how bright its channel is."""
  values = weights['scale'] * images.astype(jnp.float32)[..., :1] / 25
  return -jnp.abs(values - jnp.arange(len(NAMES))[None, None, None])


def trained(scale=1.0, names=TURNED, task='segmentation'):
  return artifact.Trained(
    {'scale': np.float32(scale)},
    forward,
    {
      'class_names': list(names), 'network': 'made', 'network_args': {},
      'image_size': few_scenes.SIZE, 'task': task,
      'data': {'train_size': 0, 'val_fraction': 0.0}, 'mean': (0.5,) * 3,
      'std': (0.5,) * 3, 'result': {'method': 'ofd', 'seed': 3},
    },
  )  # fmt: skip


class Tapped:
  """Two taps of made networks."""

  taps = ('stage4', 'priors', 'logits')

  def __init__(self, found):
    self._scale = found.weights['scale']

  def features(self, images):
    x = np.asarray(images, np.float32)
    return {'stage4': self._scale * x, 'priors': x * 0, 'logits': x**2}


@pytest.fixture
def together(monkeypatch):
  """Two runs of different students, with one teacher."""
  monkeypatch.setattr(look_dense.tapped, 'Network', Tapped)
  opened = [
    look.Opened(
      f'runs/{name}', trained(scale), trained(3.0), '', few_scenes.opened()
    )
    for name, scale in (('a', 1.0), ('b', 2.0))
  ]
  look_dense.check(opened)
  return look_dense.look_at(opened, look.Options(images=10))


def test_figures_are_of_the_whole_split_in_the_data_sets_order(together):
  run = json.loads(json.dumps(look_dense.figures(together)))[0]
  test = few_scenes.part('test')
  logits = np.asarray(forward({'scale': 1.0}, test.image))
  predicted = len(NAMES) - 1 - logits.argmax(-1)
  there = test.labels != dense.VOID
  want = np.zeros((len(NAMES),) * 2, int)
  np.add.at(want, (test.labels[there], predicted[there]), 1)
  student = run['networks']['student']
  np.testing.assert_array_equal(student['confusion'], want)
  union = want.sum(0) + want.sum(1) - want.diagonal()
  for name, of_class, both, whole in zip(
    NAMES, student['classes'], want.diagonal(), union, strict=True
  ):
    assert of_class['name'] == name
    assert of_class['iou'] == pytest.approx(100 * both / whole)
  mask = together.runs[0].networks['student'].predicted[1]
  np.testing.assert_array_equal(mask, predicted[1])
  assert run['cka']['teacher_taps'] == ['stage4', 'logits']
  assert run['cka']['values'][0][0] == pytest.approx(1)
  assert run['cka']['values'][0][1] < 1
  assert run['seed'] == 3


def test_one_teacher_of_several_runs_has_one_column(together):
  a, b = (run.networks['teacher'] for run in together.runs)
  assert a is b
  titles = [column.title for column in look_dense_picture.columns(together)]
  assert [title[0] for title in titles] == ['teacher', 'a', 'b']
  assert all(title[-1].startswith('mIoU ') for title in titles)
  assert command.dense_text(together).count('ofd') == 2


def test_runs_of_different_data_are_refused():
  def opened(source_, path):
    return look.Opened(path, trained(), None, 'why', source_)

  masks = few_scenes.opened()
  boxed = source.Source(scenes.INFOS['detection'], few_scenes.part)
  other = source.Source(few_scenes.info(place='/there'), few_scenes.part)
  look_dense.check([opened(masks, 'a'), opened(other, 'b')])
  with pytest.raises(errors.UsageError, match='b is of scenes'):
    look_dense.check([opened(masks, 'a'), opened(boxed, 'b')])
  with pytest.raises(errors.UsageError, match='for detection, and that'):
    look.check_teacher('there', trained(task='detection'), trained())


def test_runs_of_different_protocols_are_refused():
  def opened(path, **facts):
    student = trained()
    student.facts.update(facts)
    return look.Opened(path, student, None, 'why', few_scenes.opened())

  paper = {'accuracy': {'protocol': 'paper'}}
  # The program of an export takes squares, however its run was evaluated.
  for other in ({}, {**paper, 'format': 2}):
    with pytest.raises(errors.UsageError, match=r'protocols \(.*paper'):
      look_dense.look_at(
        [opened('a', **paper), opened('b', **other)], look.Options()
      )


def test_detections_above_a_half_are_shown_in_the_data_sets_classes():
  rows = np.zeros((1, 2, 3, 5), np.float32)
  rows[0, 0, 0] = [0.9, 0.1, 0.1, 0.5, 0.5]
  rows[0, 0, 1] = [0.4, 0.5, 0.5, 0.9, 0.9]
  rows[0, 1, 0] = [0.6, 0.2, 0.2, 0.6, 0.6]
  found = trained(names=('x', 'y'))._replace(
    forward=lambda weights, images: {'detections': jnp.asarray(rows)}
  )
  images = np.zeros((1, 8, 8, 3), np.uint8)
  (got,) = look_dense.predictions(found, 'detection', images, np.array([1, 0]))
  want = [[1, *rows[0, 0, 0]], [0, *rows[0, 1, 0]]]
  np.testing.assert_allclose(got, want)


def test_void_is_white_and_the_background_is_not_painted():
  image = np.full((1, 3, 3), 200, np.uint8)
  over = look_dense_picture.painted(image, np.array([[0, 1, dense.VOID]]), 3)
  assert over[0, 2].tolist() == [255, 255, 255]
  assert len({*over[0, 0].tolist()}) == 1
  red, green, _ = over[0, 1].tolist()  # VOC's first colour is a red
  assert red > green + 30


def boxed():
  """What a detector may find, on scenes with boxes."""
  images = [np.zeros((48, 48, 3), np.uint8)] * 2
  target = {
    'label': np.array([3, 7, -1]),
    'boxes': np.array([[0.1, 0.2, 0.5, 0.9], [0.6, 0.1, 0.9, 0.4], [0] * 4]),
    'difficult': np.array([False, True, False]),
  }
  rows = np.array(
    [[7, 0.97, 0.0, 0.0, 0.4, 0.4], [1, 0.55, 0.8, 0.5, 1.2, 1.0]], np.float32
  )
  network = look_dense.Network(
    trained(), {'map': 50.0, 'images': 10}, None, [rows, rows[:0]]
  )
  facts = {'method': 'ce', 'network': 'ssd48_resnet10'}
  run = look_dense.Looked('a', facts, {'student': network}, {}, None, 0, 'why')
  info = scenes.INFOS['detection']
  return look_dense.Together(info, images, [target] * 2, [run])


def test_boxes_have_names_and_scores():
  picture = look_dense_picture.draw(boxed(), 'test')
  truth, found = picture.axes[1], picture.axes[2]
  assert {x.get_text() for x in truth.texts} == {'3', '7'}
  dashed = [patch.get_linestyle() == '--' for patch in truth.patches]
  assert sorted(dashed) == [False, True]  # the difficult one
  assert {x.get_text() for x in found.texts} == {'7 0.97', '1 0.55'}
  assert 'score above 0.5' in picture.get_suptitle()
  assert not picture.axes[5].texts


def test_masks_have_a_legend(together):
  picture = look_dense_picture.draw(together, 'test')
  (legend,) = picture.legends
  names = [x.get_text() for x in legend.get_texts()]
  assert names[-1] == 'void'
  assert 'background' not in names
  assert len(picture.axes) == look_dense.SHOWN * 5
