"""`kd-jax look`: its figures equal what is computed by hand, and its errors."""

import contextlib
import io
import itertools
import json
import shutil

from matplotlib.backends import backend_agg
import numpy as np
from PIL import Image
import pytest
from sklearn import manifold

from kd_jax import errors
from kd_jax.cli import look as command
from kd_jax.data.sets import digits
from kd_jax.study import look, look_dense, look_picture, similarity, tapped
from kd_jax.training import restore
from tests import finished
from tests.study import similarity_test

IMAGES = 60
TAPS = ['stem', 'stage1_pre', 'stage1', 'stage2_pre', 'stage2', 'stage3_pre']
TAPS += ['stage3', 'pooled', 'logits']


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """A run without a teacher."""
  folder = tmp_path_factory.mktemp('runs') / 'alone'
  shutil.copytree(finished.places() / 'kd', folder)
  shutil.rmtree(folder / 'teacher')
  for name in ('config.json', 'result.json'):
    content = json.loads((folder / name).read_text()) | {'method': 'ce'}
    if name == 'config.json':
      content['teacher']['name'] = ''
    else:
      content['teacher'] = None
    (folder / name).write_text(json.dumps(content))
  return folder


@pytest.fixture(scope='module')
def looked(alone, tmp_path_factory):
  """The figures of a run with a teacher and one without.

  With them come the folder of the files, the runs, and what was printed.
  """
  folder = tmp_path_factory.mktemp('looked')
  runs = [str(finished.places() / 'kd'), str(alone)]
  arguments = [f'--out={folder / "a.png"}', f'--images={IMAGES}']
  with contextlib.redirect_stdout(io.StringIO()) as said:
    assert command.main([*runs, *arguments]) == 0
  figures = json.loads((folder / 'a.json').read_text())
  return figures, folder, runs, said.getvalue()


@pytest.fixture(scope='module')
def chosen():
  """The images whose features are read, and their labels."""
  test = digits.read('test')
  index = look.chosen_images(test.labels, IMAGES)
  return test.image[index], test.labels[index]


def logits_of(found, images):
  return np.asarray(found.forward(found.weights, images))


def test_the_files_are_whole_and_name_the_runs(looked):
  figures, folder, paths, _ = looked
  assert {path.name for path in folder.iterdir()} == {'a.png', 'a.json'}
  with Image.open(folder / 'a.png') as picture:
    picture.load()
    assert picture.width >= 1200
  assert [run['path'] for run in figures['runs']] == paths
  run = figures['runs'][0]
  assert run['images'] == {'split': 360, 'features': IMAGES, 'tsne': IMAGES}
  assert (run['method'], run['teacher']) == ('kd', 'resnet8')
  assert run['class_names'] == list(digits.INFO.class_names)
  assert figures['split'] == 'test'
  assert {'jax', 'scikit-learn', 'kd_jax'} <= figures['versions'].keys()


def test_the_confusion_matrix_has_the_runs_accuracy(looked):
  figures = looked[0]
  for run in figures['runs']:
    counts = np.array(run['confusion']['counts'])
    assert np.trace(counts) == finished.correct(finished.result('kd'))
    assert counts.sum(axis=1).tolist() == (
      np.bincount(digits.read('test').labels).tolist()
    )


def test_correlations_and_cka_are_those_of_the_two_networks(looked, chosen):
  run = looked[0]['runs'][0]
  path, (images, _) = finished.places() / 'kd', chosen
  student, teacher = restore.load(path), restore.teacher(path)
  logits = {
    'student': logits_of(student, images),
    'teacher': logits_of(teacher, images),
  }
  for name, values in logits.items():
    want = np.corrcoef(values.astype(np.float64), rowvar=False)
    # The program of a whole batch rounds differently, in float32.
    np.testing.assert_allclose(run['correlation'][name], want, atol=1e-3)
  stored = run['correlation']
  difference = np.subtract(stored['teacher'], stored['student'])
  np.testing.assert_allclose(stored['difference'], difference, atol=2e-6)
  mean = np.abs(difference).sum() / 90
  assert stored['mean_absolute_difference'] == pytest.approx(mean, abs=2e-6)
  assert run['cka']['teacher_taps'] == run['cka']['student_taps'] == TAPS
  values = np.array(run['cka']['values'])
  assert values.shape == (9, 9)
  pooled = tapped.Network(teacher).features(images)['pooled']
  for row, features in ((-1, logits['teacher']), (-2, pooled)):
    want = similarity_test.cka(
      np.asarray(features, np.float64), logits['student'].astype(np.float64)
    )
    assert values[row, -1] == pytest.approx(want, abs=1e-3)
  assert abs(values[-2, -1] - values[-1, -2]) > 0.01  # rows are the teacher's


def test_tsne_is_of_the_students_pooled_features(looked, chosen):
  run = looked[0]['runs'][0]
  images, labels = chosen
  assert run['tsne']['labels'] == labels.tolist()
  network = tapped.Network(restore.load(finished.places() / 'kd'))
  pooled = np.asarray(network.features(images)['pooled'])
  want = manifold.TSNE(
    perplexity=run['tsne']['perplexity'], init='pca', random_state=0
  ).fit_transform(pooled)
  assert run['tsne']['perplexity'] == pytest.approx(59 / 3)
  np.testing.assert_allclose(run['tsne']['student'], want, atol=1e-3)


def test_a_run_without_a_teacher_lacks_what_needs_one_and_says_so(looked):
  figures, _, (_, path), said = looked
  run = figures['runs'][1]
  why = 'ce has no teacher'
  assert run['left_out'] == dict.fromkeys(look.OF_TEACHER, why)
  assert 'correlation' not in run
  assert 'cka' not in run
  assert f'{path}: left out correlations of logits, t-SNE of the' in said
  assert 'student' in run['tsne']
  assert 'teacher' not in run['tsne']


def test_a_prediction_through_a_method_is_what_is_looked_at(chosen):
  """SimKD and its kin: an export, without what the prediction does not read."""
  images, _ = chosen
  found = restore.load(finished.places() / 'pics_out')
  features = tapped.Network(found).features(images)
  np.testing.assert_allclose(
    features['logits'], logits_of(found, images), rtol=1e-4, atol=1e-4
  )
  assert features['pooled'].shape == (IMAGES, 16)


def test_a_given_teacher_takes_the_place_of_the_runs():
  options = look.Options(images=IMAGES)
  own = str(finished.places() / 'kd_out')
  opened = look.open_run(own, options, own)
  assert not opened.why
  run = look.look(opened, options)
  np.testing.assert_allclose(np.diag(run.cka), 1, atol=1e-9)
  assert look.mean_difference(run) < 1e-12
  assert look.figures(run)['teacher_path'] == own
  assert look.open_run(own, options).why == 'an export holds no teacher'


def test_the_chosen_images_are_fixed_and_of_all_classes():
  labels = np.repeat(np.arange(10), [5, 15] * 5)
  index = look.chosen_images(labels, 40)
  np.testing.assert_array_equal(index, look.chosen_images(labels, 40))
  assert len({*index.tolist()}) == 40
  assert np.bincount(labels[index]).tolist() == [2, 6] * 5
  assert (np.diff(labels[index]) < 0).any()  # mixed, for batches of CKA
  assert sorted(look.chosen_images(labels, 1000)) == list(range(100))


def unfinished(folder):
  shutil.copytree(finished.places() / 'kd', folder / 'run')
  (folder / 'run' / 'result.json').unlink()
  return [folder / 'run']


def with_named_teachers(folder, *names):
  """Copies a run, and gives its teacher these names, each with the weights."""
  shutil.copytree(finished.places() / 'kd', folder)
  for file in ('config.json', 'result.json'):
    content = json.loads((folder / file).read_text())
    one = content['teacher']
    content['teachers'] = dict.fromkeys(names, one)
    content['teacher'] = None
    if file == 'config.json':
      content['teacher'] = {**one, 'name': '', 'args': {}}
      content['teachers'] = {
        name: {'name': one['name'], 'args': one['args']} for name in names
      }
      content['method_args']['teachers'] = names
    (folder / file).write_text(json.dumps(content))
  for name in names:
    shutil.copytree(folder / 'teacher', folder / f'teacher-{name}')
  shutil.rmtree(folder / 'teacher')
  return str(folder)


def test_a_run_is_shown_beside_its_only_teacher_of_another_name(tmp_path):
  run = with_named_teachers(tmp_path / 'run', 'big')
  opened = look.open_run(run, look.Options('test', IMAGES))
  own = restore.teacher(finished.places() / 'kd')
  assert (opened.why, opened.note) == ('', '')
  assert look_dense.same(opened.teacher, own)


def test_of_several_teachers_the_first_is_shown_or_the_named(tmp_path):
  run = with_named_teachers(tmp_path / 'run', 'a', 'b')
  shutil.rmtree(tmp_path / 'run/teacher-b')
  options = look.Options('test', IMAGES)
  opened = look.open_run(run, options)
  assert opened.teacher is not None
  assert opened.note == f'{run}: teacher a is shown; --teacher shows b'
  with pytest.raises(errors.UsageError, match='teacher-b is not there'):
    look.open_run(run, options, 'b')
  opened = look.open_run(run, options, 'a')
  assert (opened.given, opened.note) == ('', '')
  with pytest.raises(errors.UsageError, match='c is not there'):
    look.open_run(run, options, 'c')


def without_teachers_weights(folder):
  shutil.copytree(finished.places() / 'kd', folder / 'run')
  shutil.rmtree(folder / 'run' / 'teacher')
  return [folder / 'run']


@pytest.mark.parametrize(
  ('arguments', 'message'),
  [
    (lambda f: [f], 'neither a finished run'),
    (lambda f: [f / 'gone'], 'gone is not there'),
    (unfinished, 'is a run that is not finished'),
    (without_teachers_weights, 'teacher is not there'),
    (lambda f: ['kd_out', '--split=tset'], "did you mean 'test'"),
    (lambda f: ['kd_out', '--split=val'], "unknown --split of .*'val'"),
    (lambda f: ['kd_out', '--images=3'], '--images=3 must be 10 or more'),
    (lambda f: ['kd_out', '--out=a.jpg'], '--out=a.jpg: give a file'),
    (lambda f: ['kd_out', '--out=/gone/a.png'], 'in a folder that is'),
    (lambda f: ['kd_out', f'--teacher={f}'], 'neither a finished run'),
  ],
)
def test_a_mistake_is_one_line_and_writes_nothing(
  arguments, message, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  given = [
    str(finished.places() / 'kd_out') if x == 'kd_out' else str(x)
    for x in arguments(tmp_path)
  ]
  assert command.main(given) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  with pytest.raises(errors.UsageError, match=message):
    raise errors.UsageError(error)
  assert not [*tmp_path.glob('*look*')]


def test_a_teacher_of_other_classes_is_refused():
  student = restore.load(finished.places() / 'kd_out')
  facts = student.facts | {'class_names': ['a', 'b']}
  with pytest.raises(errors.UsageError, match='has 2 classes'):
    look.check_teacher('there', student._replace(facts=facts), student)


def made(path, classes=100, teacher=True, **facts):
  """Figures of a run that was never trained."""
  rng = np.random.default_rng(len(path))
  labels = rng.integers(0, classes, 3000)
  predicted = np.where(rng.random(3000) < 0.7, labels, labels[::-1])
  logits = rng.normal(size=(2, 200, classes))
  points = rng.normal(size=(50, 2))
  both = ('teacher', 'student') if teacher else ('student',)
  known = {
    'method': 'crd', 'network': 'resnet8x4', 'network_args': {},
    'teacher': 'resnet32x4' if teacher else None, 'teacher_path': None,
    'data': 'cifar100', 'image_size': 32, 'train_images': 50000,
    'train_size': 0, 'val_fraction': 0.0,
    'epochs': 240, 'seed': 0, 'fingerprint': '', 'top1': 71.25,
  }  # fmt: skip
  why = dict.fromkeys(look.OF_TEACHER, 'ce has no teacher')
  return look.Looked(
    path=path,
    facts=known | facts,
    class_names=tuple(f'the class number {k}' for k in range(classes)),
    images={'split': 3000, 'features': 200, 'tsne': 50},
    confusion=similarity.confusion(labels, predicted, classes),
    correlations={
      n: similarity.correlation(logits[i]) for i, n in enumerate(both)
    }
    if teacher
    else {},
    taps=dict.fromkeys(both, TAPS) if teacher else {},
    cka=rng.random((9, 9)) if teacher else None,
    points=dict.fromkeys(both, points),
    point_labels=labels[:50],
    left_out={} if teacher else why,
  )


def overlapping(labels, renderer):
  boxes = [x.get_window_extent(renderer) for x in labels if x.get_text()]
  return any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize(
  'runs',
  [
    [made('a/run' * 12), made('b/run', seed=1), made('c', teacher=False)],
    [made('a', classes=20)],
  ],
)
def test_a_picture_reads_well(runs):
  """Ticks do not overlap, and no text leaves the picture."""
  picture = look_picture.draw(runs, 'test')
  canvas = backend_agg.FigureCanvasAgg(picture)
  canvas.draw()
  renderer = canvas.get_renderer()
  whole = picture.bbox
  ticks = 0
  for axes in picture.axes:
    for axis in (axes.xaxis, axes.yaxis):
      if axes.axison and (labels := axis.get_ticklabels()):
        assert len(labels) <= 20
        assert not overlapping(labels, renderer)
        ticks += len(labels)
    texts = [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label]
    for text in texts:
      if text.get_text() and (axes.axison or text in axes.texts):
        box = text.get_window_extent(renderer)
        assert whole.x0 <= box.x0
        assert box.x1 <= whole.x1
        assert whole.y0 <= box.y0
        assert box.y1 <= whole.y1
  assert ticks > 50


def test_columns_are_titled_by_what_differs():
  runs = [made('x/kd'), made('y/kd', seed=1, method='kd')]
  runs.append(made('y/ce', teacher=False, method='ce'))
  common, titles = look_picture.texts(runs, 'test')
  assert common.startswith('teacher resnet32x4, student resnet8x4, cifar100')
  assert titles == [
    ['x/kd', 'crd, top-1 71.25% on test', 'seed 0'],
    ['y/kd', 'kd, top-1 71.25% on test', 'seed 1'],
    ['ce', 'ce, top-1 71.25% on test', 'seed 0'],
  ]


def test_runs_of_different_data_are_noted():
  runs = [made('a'), made('b', seed=1), made('c', data='cifar10')]
  assert look_picture.notes(runs[:2], 'test') == []
  (note,) = look_picture.notes(runs, 'test')
  assert 'different data (cifar100, cifar10)' in note
  held_out = [made('a'), made('b', val_fraction=0.2)]
  assert look_picture.notes(held_out, 'test') == []
  assert look_picture.notes(held_out, 'val')


def test_an_axis_names_few_classes_and_numbers_many():
  picture = look_picture.draw([made('a', teacher=False)], 'test')
  labels = [axes.get_xlabel() for axes in picture.axes]
  assert 'number of the predicted class' in labels
  texts = [x.get_text() for axes in picture.axes for x in axes.texts]
  assert not any('left out' in text for text in texts)  # the row is gone
  assert 'ce has no teacher' in picture.get_suptitle()


def test_what_cannot_be_written_leaves_nothing(tmp_path):
  (tmp_path / 'a.json').mkdir()
  contents = {tmp_path / 'b.png': b'new', tmp_path / 'gone' / 'b.json': b''}
  with pytest.raises(errors.UsageError, match='cannot write'):
    command._write(contents)
  assert [path.name for path in tmp_path.iterdir()] == ['a.json']


def test_rows_of_predictions_add_up_to_1():
  run = made('a', classes=4)
  run.confusion[2] = 0  # a class without images
  found = look.shares(run)
  assert np.isnan(found[2]).all()
  others = [0, 1, 3]
  np.testing.assert_allclose(found[others].sum(axis=1), 1)
  top = run.confusion[0, 0] / run.confusion[0].sum()
  assert found[0, 0] == pytest.approx(top)
