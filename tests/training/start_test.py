"""The weights that a run's students begin with: `config.student.init`."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors import numpy

from kd_jax import config as config_lib
from kd_jax import errors, pytrees
from kd_jax.data.sets import digits
from kd_jax.distill import build, inspect, step
from kd_jax.runtime import checkpoint, run_dir
from kd_jax.training import run as run_lib
from kd_jax.training import start as start_lib
from kd_jax.training import teacher as teacher_lib
from kd_jax.training import teacher_path
from tests import tiny
from tests.cli import train_test


def config(epochs=1, **changes):
  """The configuration of a student alone, and what it begins with."""
  made = train_test.configuration('ce').get_config('digits')
  made.student.update(config_lib.network('resnet8'))
  made.student.args.widths = (4, 4, 8, 16)
  made.data.train_size, made.batch_size, made.epochs = 20, 20, epochs
  made.mesh.data, made.teacher.expected_top1 = 1, 0.0
  made.student.update(changes)
  return made


@pytest.fixture(scope='module')
def parts():
  return build.build(config())


def random(shapes, seed):
  """A tree of random arrays."""
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), shapes
  )


@pytest.fixture(scope='module')
def places(tmp_path_factory, parts):
  """A folder with the runs 'one' and 'two', with random weights."""
  folder = tmp_path_factory.mktemp('places')
  network, size = parts.exp.students['student'], parts.source.info.image_size
  shapes = dict(inspect.variables_of(network, size))
  for i, name in enumerate(('one', 'two')):
    run, values = run_dir.Folder(folder / name), random(shapes, i)
    run.claim(config_lib.plain(config()), digits.INFO.identity())
    checkpoint.save_only(run.path / 'student', 1, values)
    run.write(
      'result.json',
      {
        'kept': ['student'],
        'test_images': 360,
        'params': 1,
        'flops': 1.0,
        'top1': 50.0,
        'top5': 90.0,
        'teacher': None,
      },
    )
  return folder


def test_a_run_is_taken_but_for_what_is_skipped(tmp_path, parts, places):
  made = config(init=str(places / 'one'), init_skip=('^fc/',))
  start = start_lib.check(made, parts, run_dir.Folder(tmp_path / 'run'))
  assert start.facts['from'] == str(places / 'one')
  assert start.facts['fresh'] == ['fc']
  assert start.facts['of'] - start.facts['parameters'] == 16 * 10 + 10
  network, size = parts.exp.students['student'], parts.source.info.image_size
  values = by_path(random(dict(inspect.variables_of(network, size)), 0))
  for path, value in start.values().items():
    np.testing.assert_array_equal(value, values[path])
  assert not list(tmp_path.iterdir())


def by_path(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {pytrees.path_name(path): np.asarray(leaf) for path, leaf in leaves}


def test_all_students_begin_with_what_was_taken_and_the_rest_is_as_before():
  network = tiny.Plain()
  exp = tiny.experiment(tiny.method('ce'), optax.sgd(0.1), student=network)
  exp = exp._replace(students={'student': network, 'other': network})
  batch = {k: jnp.asarray(v) for k, v in tiny.batch(2).items()}
  values = by_path(random(dict(inspect.variables_of(network, tiny.SIZE)), 7))
  start = {
    path: jnp.asarray(value)
    for path, value in values.items()
    if not path.startswith('params/fc/')
  }

  @jax.jit
  def states(start):
    return [
      step.init(exp, jnp.int32(3), {}, batch, begun) for begun in ({}, start)
    ]

  before, begun = states(start)
  for name in exp.students:
    state = {
      **{f'params/{k}': x for k, x in by_path(begun.params[name]).items()},
      **by_path(begun.model_state[name]),
    }
    assert start.keys() < state.keys()
    for path, value in state.items():
      if path in start:
        np.testing.assert_array_equal(value, values[path])
      else:
        fresh = by_path(before.params[name])[path.removeprefix('params/')]
        np.testing.assert_array_equal(value, fresh)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'init': 'gone.pth'}, r"config\.student\.init='gone\.pth': there is no"),
    ({'init': 'gone'}, r"config\.student\.init='gone': .*gone is not there"),
    ({'init': 'half'}, r"init='half': .* that is not finished"),
    ({'init': 'one', 'init_key': 'ema'}, r'config\.student\.init_key=.ema'),
    ({'init': 'one', 'init_skip': ('stagge',)}, "did you mean 'stage"),
    ({'init': 'other.pth'}, 'it is another network'),
    ({'init_skip': ('fc',)}, r'init_skip=.*config\.student\.init, which names'),
    ({'init': 'other.pth', 'init_sha256': '12345678'}, 'truncated or another'),
  ],
)
def test_bad_input_is_one_line(
  tmp_path, parts, places, monkeypatch, changes, message
):
  (tmp_path / 'one').symlink_to(places / 'one')
  (tmp_path / 'half').mkdir()
  (tmp_path / 'half/config.json').write_text('{}')
  numpy.save_file({'a.weight': np.ones(3, np.float32)}, tmp_path / 'other.pth')
  monkeypatch.chdir(tmp_path)
  before = sorted(tmp_path.iterdir())
  with pytest.raises(errors.UsageError, match=message) as told:
    start_lib.check(config(**changes), parts, run_dir.Folder('run'))
  assert '\n' not in str(told.value)
  assert sorted(tmp_path.iterdir()) == before


def test_a_run_goes_on_only_with_the_weights_it_was_begun_with(
  tmp_path, parts, places
):
  place, folder = tmp_path / 'start', run_dir.Folder(tmp_path / 'run')
  place.symlink_to(places / 'one')
  made = config(init=str(place))
  lines = []
  start_lib.check(made, parts, folder).keep(folder, lines.append)
  assert lines[0].startswith('start     5.21 k of 5.21 k parameters of ')
  kept = json.loads((tmp_path / 'run/init.json').read_text())
  assert start_lib.check(made, parts, folder).facts == kept
  place.unlink()
  assert start_lib.check(made, parts, folder).facts == kept  # gone
  place.symlink_to(places / 'two')
  with pytest.raises(errors.UsageError) as told:
    start_lib.check(made, parts, folder)
  assert str(told.value).startswith(
    f"config.student.init='{place}' holds another network (digest "
  )


def test_students_of_two_networks_have_no_common_start(tmp_path, parts, places):
  made, folder = config(init=str(places / 'one')), run_dir.Folder(tmp_path)
  network, wide = parts.exp.students['student'], tiny.network(widths=(4,) * 4)

  def of(**students):
    phase = parts.phases[0]
    exp = phase.exp._replace(students=students)
    return parts._replace(phases=(phase._replace(exp=exp),))

  alike = start_lib.check(made, of(a=network, b=network), folder)
  assert alike.facts['notes'] == ['all students begin alike (a, b)']
  with pytest.raises(errors.UsageError) as told:
    start_lib.check(made, of(a=network, b=network, c=wide), folder)
  assert str(told.value) == (
    'config.student.init is for students of one network, and c is another '
    'than a: batch_stats/stage2_block1/bn1/mean is [4] and [8]; give '
    "'', or all students one network"
  )


def test_networks_that_runs_share_are_apart_by_what_they_begin_with(tmp_path):
  file = tmp_path / 'weights.pth'
  made, folders = config(init=str(file)), set()
  made.cache_dir = str(tmp_path)
  for content in ('a', 'b'):
    file.write_text(content)
    folder = teacher_lib.cache_folder(made, digits.INFO, 'alone')
    folders.add(folder.path)
  assert len(folders) == 2


def test_a_start_at_random_changes_no_runs_identity():
  made = config_lib.load('ofd:voc_r101_r18')
  values = config_lib.determining(config_lib.plain(made))
  assert set(values['student']) == {'name', 'args'}
  assert 'student' not in values['teacher']['recipe']
  made.student.init = 'x'
  assert 'init' in config_lib.determining(config_lib.plain(made))['student']


def test_a_recipe_that_names_another_student_has_the_keys_of_its_start():
  made = train_test.configuration('fsp').get_config('digits')
  assert (made.student.init, made.student.init_skip) == ('', ())
  made.student = config_lib.network('resnet14')  # as a program may do
  assert teacher_path.INIT.value(made, 'path') == ''
  assert config_lib.checked(made, 'mine.py').student.init == ''


def test_a_teacher_that_is_trained_begins_with_its_own_weights():
  made = config_lib.load('ofd:voc_r101_r18')
  made.student.init = 'resnet18.pth'
  made.teacher.recipe.student.init = 'resnet101.pth'
  assert config_lib.of_teacher(made).student.init == 'resnet101.pth'
  assert config_lib.of_baseline(made).student.init == 'resnet18.pth'


@pytest.mark.drill
def test_a_run_goes_on_without_what_it_began_with_and_its_result_says_it(
  tmp_path,
):
  first = run_lib.train(config(), run_dir.Folder(tmp_path / 'first'))
  assert 'init' not in first
  made = config(init=str(tmp_path / 'first'), init_skip=('^fc/',), epochs=3)
  asked, folder = iter((False, True)), run_dir.Folder(tmp_path / 'second')
  with pytest.raises(run_lib.Interrupted):
    run_lib.train(made, folder, should_stop=lambda: next(asked))
  (tmp_path / 'first').rename(tmp_path / 'gone')
  result = run_lib.train(made, folder)
  assert result['steps'] == 3
  assert result['init']['fresh'] == ['fc']
  assert result['init'] == folder.read('init.json')
  assert 'start     ' in (tmp_path / 'second/log.txt').read_text()
