"""A teacher by its path: a run, an export, or a mistake."""

import copy
import functools
import hashlib
import http.server
import json
import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors import numpy

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.data import resident
from kd_jax.data.sets import digits
from kd_jax.distill import build
from kd_jax.export import artifact
from kd_jax.models import layers
from kd_jax.models.pretrained import convert
from kd_jax.runtime import run_dir, sharding
from kd_jax.training import report, teacher_path
from kd_jax.training import run as run_lib
from kd_jax.training import teacher as teacher_lib
from tests import finished
from tests.models import saved as files


def config(path, widths=(4, 4, 8, 16)):
  made = finished.config('kd')
  made.data.train_size, made.epochs, made.batch_size = 20, 1, 20
  made.teacher.args.widths = widths
  made.teacher.path = str(path)
  made.teacher.expected_top1 = 0.0
  return made


def test_a_run_and_its_export_teach_alike(tmp_path):
  mesh = sharding.make_mesh(1)
  test = resident.Resident(digits.read('test'), digits.INFO, mesh)
  result = finished.result('kd')
  for name in ('kd', 'kd_out'):
    made = config(finished.places() / name)
    parts, folder = build.build(made), run_dir.Folder(tmp_path / name)
    teacher_lib.check(made, parts, folder)
    frozen, facts = teacher_lib.obtain(
      made, parts, folder, {'test': test}.get, None, print
    )
    assert facts['teacher']['top1'] == result['top1']
    assert facts['teacher']['wall_s'] == result['wall_s']
    assert facts['teacher']['from'] == str(finished.places() / name)
    assert set(frozen['teacher']) == {'params', 'batch_stats'}
    # It is the run's own from now on.
    made.teacher.path = 'gone'
    teacher_lib.check(made, parts, folder)
    _, again = teacher_lib.obtain(
      made, parts, folder, {'test': test}.get, None, print
    )
    assert again == facts


@pytest.mark.parametrize(
  ('name', 'widths', 'message'),
  [
    ('nothing', (4, 4, 8, 16), 'nothing is not there'),
    ('kd/config.json', (4, 4, 8, 16), 'neither a finished run'),
    ('pics_out', (4, 4, 8, 16), 'does not stand alone'),
    ('kd_out', (8, 8, 16, 32), 'is another one: '),
  ],
)
def test_a_wrong_path_is_one_line_and_leaves_nothing(
  tmp_path, name, widths, message
):
  made = config(finished.places() / name, widths)
  with pytest.raises(errors.UsageError, match=message) as raised:
    run_lib.train(made, run_dir.Folder(tmp_path / 'run'))
  assert str(raised.value).startswith('config.teacher.path=')
  assert '\n' not in str(raised.value)
  assert not list(tmp_path.iterdir())


def saved(path, made):
  """A file of the teacher's random weights by PyTorch's names."""
  network = build.make_network(made.teacher, 10, 'float32')
  rng = np.random.default_rng(0)
  state = {}
  for name, shape in convert.originals(network).items():
    values = rng.normal(size=shape).astype(np.float32)
    values /= np.float32(np.sqrt(np.prod(shape[1:])))  # of a layer's inputs
    state[name] = np.abs(values) if name.endswith('running_var') else values
  numpy.save_file(state, path)
  return convert.convert(network, state)


def test_a_file_of_pytorch_weights_teaches(tmp_path):
  file = tmp_path / 'resnet8.safetensors'
  made = config(file)
  want = saved(file, made)
  made.teacher.mean, made.teacher.std = (0.5,) * 3, (0.25,) * 3
  made.teacher.sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
  parts = build.build(made)
  assert set(parts.exp.inputs) == {'teacher'}
  test = resident.Resident(digits.read('test'), digits.INFO, parts.mesh)
  folder = run_dir.Folder(tmp_path / 'run')
  teacher_lib.check(made, parts, folder)
  frozen, facts = teacher_lib.obtain(
    made, parts, folder, {'test': test}.get, None, print
  )
  jax.tree.map(np.testing.assert_array_equal, frozen['teacher'], dict(want))
  # What is measured is the teacher in its own normalisation.
  pixels = digits.read('test').image / np.float32(255)
  network = parts.exp.teachers['teacher']
  labels = digits.read('test').labels

  def loss(mean, std):
    logits = network.apply(want, (pixels - mean) / std, train=False)
    each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return float(each.mean())

  ours = digits.INFO.mean[0], digits.INFO.std[0]
  assert facts['teacher']['loss'] == pytest.approx(loss(0.5, 0.25), rel=1e-3)
  assert facts['teacher']['loss'] != pytest.approx(loss(*ours), rel=1e-2)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'sha256': 'abc'}, 'first 8 or more'),
    ({'sha256': 'abcdef0123'}, 'truncated or another file'),
    ({'name': 'resnet14'}, 'missing'),
    ({'key': 'ema'}, r"config\.teacher\.key='ema': there are no weights"),
  ],
)
def test_wrong_weights_are_refused(tmp_path, changes, message):
  file = tmp_path / 'resnet8.safetensors'
  made = config(file)
  saved(file, made)
  made.teacher.update(changes)
  with pytest.raises(errors.UsageError, match=message):
    run_lib.train(made, run_dir.Folder(tmp_path / 'run'))
  assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_what_was_taken_of_a_checkpoint_is_said_and_another_by_its_key(
  tmp_path,
):
  made = config(tmp_path / 'a.CKPT')
  want = saved(tmp_path / 'a.safetensors', made)
  state = numpy.load_file(tmp_path / 'a.safetensors')
  content = {
    'state_dict': files.tensors({f'model.{k}': v for k, v in state.items()}),
    'ema': files.tensors(
      {name: value * 0 + 1 for name, value in state.items()}
    ),
  }
  files.save(content, made.teacher.path)
  parts = build.build(made)
  test = resident.Resident(digits.read('test'), digits.INFO, parts.mesh)
  lines = []
  folder = run_dir.Folder(tmp_path / 'run')
  frozen, _ = teacher_lib.obtain(
    made, parts, folder, {'test': test}.get, None, lines.append
  )
  jax.tree.map(np.testing.assert_array_equal, frozen['teacher'], dict(want))
  assert lines[:2] == [
    "teacher's file: the weights under 'state_dict.model' were taken; left: "
    "'ema'",
    "teacher's file: the network fits under 'ema' too",
  ]
  made.teacher.key = 'ema'
  frozen, _ = teacher_lib.obtain(
    made,
    parts,
    run_dir.Folder(tmp_path / 'run2'),
    {'test': test}.get,
    None,
    print,
  )
  assert (frozen['teacher']['params']['fc']['bias'] == 1).all()


@pytest.mark.parametrize('suffix', ['PTH', 't7', 'pkl', 'whatever'])
def test_a_file_that_is_no_weights_is_named_whatever_its_suffix(
  tmp_path, suffix
):
  file = tmp_path / f'teacher.{suffix}'
  file.write_text('<html>')
  with pytest.raises(errors.UsageError, match='a web page') as raised:
    run_lib.train(config(file), run_dir.Folder(tmp_path / 'run'))
  assert str(raised.value).startswith('config.teacher.path=')


def test_a_teacher_whose_training_diverged_is_found_when_it_is_loaded(
  tmp_path,
):
  made = config(tmp_path / 'a.safetensors')
  saved(tmp_path / 'a.safetensors', made)
  state = numpy.load_file(tmp_path / 'a.safetensors')
  state['fc.bias'][2] = np.nan
  numpy.save_file(state, tmp_path / 'a.safetensors')
  with pytest.raises(errors.UsageError, match=r'fc\.bias has 1 of 10 values'):
    run_lib.train(made, run_dir.Folder(tmp_path / 'run'))
  # Of a run, whose files have digests, as it is restored.
  weights = {'params/fc/bias': jnp.array([1.0, jnp.inf])}
  with pytest.raises(errors.UsageError, match='params/fc/bias has values'):
    artifact.check_finite(weights, 'run')


def test_a_run_of_another_normalisation_is_refused_with_the_cure(tmp_path):
  made = config(finished.places() / 'kd_out')
  made.teacher.std = (0.1,) * 3
  with pytest.raises(errors.UsageError, match=r'set config\.teacher\.std='):
    run_lib.train(made, run_dir.Folder(tmp_path / 'run'))


@pytest.fixture
def served(tmp_path):
  """A folder whose files a server gives, and the server's address."""
  folder = tmp_path / 'served'
  folder.mkdir()
  handler = functools.partial(
    http.server.SimpleHTTPRequestHandler, directory=str(folder)
  )
  with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder, f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    thread.join()


def test_a_teacher_by_url_is_fetched_once_and_measured_where_asked(
  tmp_path, served
):
  folder, address = served
  made = config(f'{address}/resnet8.safetensors?download=true')
  file = folder / 'resnet8.safetensors'
  want = saved(file, made)
  made.cache_dir = str(tmp_path / 'cache')
  made.teacher.sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
  made.teacher.expected_on = 'train'
  parts = build.build(made)
  sets = {
    name: resident.Resident(digits.read(name), digits.INFO, parts.mesh)
    for name in ('train', 'test')
  }
  run = run_dir.Folder(tmp_path / 'run')
  teacher_lib.check(made, parts, run)
  file.unlink()  # it is at home by now
  made.teacher.expected_top1 = 99.0
  with pytest.raises(errors.RunError, match=r'top-1 \S+% on train, less than'):
    teacher_lib.obtain(made, parts, run, sets.get, None, print)
  made.teacher.expected_top1 = 1.0
  frozen, facts = teacher_lib.obtain(made, parts, run, sets.get, None, print)
  jax.tree.map(np.testing.assert_array_equal, frozen['teacher'], dict(want))
  measured = {
    name: teacher_lib.measure(
      parts.exp.teachers['teacher'], want, sets[name], 100, parts.mesh
    )['top1']
    for name in sets
  }
  assert facts['teacher']['top1'] == measured['test'] != measured['train']
  assert facts['teacher']['top1_train'] == measured['train']
  (kept,) = (tmp_path / 'cache/downloads').glob('[!.]*')
  assert kept.name == f'{made.teacher.sha256[:8]}-resnet8.safetensors'


@pytest.mark.parametrize(
  ('name', 'digits_', 'message'),
  [
    ('resnet8.safetensors', '0' * 64, 'truncated or another file'),
    ('gone.safetensors', '0' * 64, 'cannot download .*File not found'),
    ('run', '0' * 64, 'a URL names a file of weights'),
  ],
)
def test_a_wrong_url_is_one_line_and_leaves_nothing(
  tmp_path, served, name, digits_, message
):
  folder, address = served
  made = config(f'{address}/{name}')
  saved(folder / 'resnet8.safetensors', made)
  made.cache_dir = str(tmp_path / 'cache')
  made.teacher.sha256 = digits_
  with pytest.raises(errors.UsageError, match=message) as raised:
    run_lib.train(made, run_dir.Folder(tmp_path / 'run'))
  assert str(raised.value).startswith('config.teacher.path=')
  assert '\n' not in str(raised.value)
  assert not (tmp_path / 'run').exists()
  assert not list(tmp_path.glob('cache/downloads/[!.]*'))


def test_a_url_needs_all_digits_and_says_those_of_its_file(tmp_path, served):
  folder, address = served
  file = folder / 'resnet8-5c106cde.safetensors'
  made = config(f'{address}/{file.name}?download=true&token=secret')
  saved(file, made)
  digits = hashlib.sha256(file.read_bytes()).hexdigest()
  made.cache_dir = str(tmp_path / 'cache')
  for given in ('', digits[:8], digits[:63]):
    made.teacher.sha256 = given
    with pytest.raises(errors.UsageError, match='needs all 64') as raised:
      teacher_path.file(made)
    assert digits in str(raised.value)
    assert 'secret' not in str(raised.value)
    file.unlink(missing_ok=True)  # it is not fetched again
  made.teacher.sha256 = digits
  kept = teacher_path.file(made)
  assert hashlib.sha256(kept.read_bytes()).hexdigest() == digits
  kept.write_bytes(b'another file with the same first 8 digits')
  with pytest.raises(errors.UsageError, match='cannot download'):
    teacher_path.file(made)


def test_a_token_of_a_url_is_in_no_file_and_in_no_identity(
  tmp_path, served, monkeypatch
):
  folder, address = served
  plain = config(f'{address}/resnet8.safetensors?download=true')
  file = folder / 'resnet8.safetensors'
  saved(file, plain)
  plain.teacher.sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
  plain.cache_dir = str(tmp_path / 'cache')
  made = copy.deepcopy(plain)
  made.teacher.path = (
    f'http://me:secret@{address[7:]}/resnet8.safetensors'
    '?download=true&X-Amz-Signature=secret#secret'
  )
  assert config_lib.digest(made) == config_lib.digest(plain)
  parts = build.build(made)
  run = run_dir.Folder(tmp_path / 'run')
  run.claim(config_lib.plain(made), {})
  run.claim(config_lib.plain(plain), {})  # it is the same run
  teacher_lib.check(made, parts, run)
  monkeypatch.setattr(teacher_lib, 'measure', lambda *_: {'top1': 50.0})
  teacher_lib.obtain(made, parts, run, {'test': None}.get, None, print)
  teacher_lib.check(made, parts, run)
  texts = {p.name: p.read_text() for p in (tmp_path / 'run').glob('*.json')}
  assert {'config.json', 'teacher.json'} <= texts.keys()
  assert not [name for name, text in texts.items() if 'secret' in text]


def test_a_run_trains_beside_the_folded_teacher(tmp_path, monkeypatch):
  class Reached(Exception):  # noqa: N818  (no error)
    pass

  def loop(config, parts, data, tests, frozen, *_):
    raise Reached(frozen)

  monkeypatch.setattr(run_lib.loop, 'Loop', loop)
  made = config(finished.places() / 'kd')
  made.teacher.dtype = 'bfloat16'
  with pytest.raises(Reached) as reached:
    run_lib.train(made, run_dir.Folder(tmp_path / 'run'))
  teacher = reached.value.args[0]['teacher']
  assert set(teacher) == {'params', 'batch_stats', layers.FOLDED}
  folded = teacher[layers.FOLDED]
  assert set(folded) == set(teacher['batch_stats'])
  names = [
    {x.dtype.name for x in jax.tree.leaves(tree)}
    for tree in (folded, teacher['params'])
  ]
  assert names == [{'bfloat16'}, {'float32'}]


def cached(flip, cache):
  """KD of some steps on images that are not cropped."""
  made = config(finished.places() / 'kd')
  made.data.train_size, made.data.flip, made.data.crop_padding = 50, flip, 0
  made.eval_batch_size, made.baseline = 40, 'off'  # the last one is not full
  made.teacher.cache_logits = cache
  return made


@pytest.mark.parametrize('flip', [False, True])
def test_cached_logits_teach_as_the_teacher_does(tmp_path, flip):
  records = []
  for cache in (False, True):
    folder = run_dir.Folder(tmp_path / str(cache))
    run_lib.train(cached(flip, cache), folder)
    lines = (folder.path / 'metrics.jsonl').read_text().splitlines()
    records.append({k: v for x in lines for k, v in json.loads(x).items()})
  run, again = records
  terms = [
    name for name in run if name.startswith('train/') or name == 'test/loss'
  ]
  assert 'train/loss/kd' in terms
  for name in terms:
    assert again[name] == pytest.approx(run[name], rel=1e-3), name


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'data.crop_padding': 2}, r'config\.data\.crop_padding=0'),
    ({'data.device_mb': 0}, 'would be streamed'),
    ({'teacher.args.batch_norm': 'batch'}, "give 'auto' or 'running'"),
    ({'method': 'at', 'weights.at': 1.0}, "network 'teacher'.*logits"),
  ],
)
def test_logits_that_cannot_be_cached_are_refused(tmp_path, changes, message):
  made = cached(True, True)
  for key, value in changes.items():
    with made.unlocked():
      made.update_from_flattened_dict({key: value})
  with pytest.raises(errors.UsageError, match=message):
    run_lib.train(made, run_dir.Folder(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def brightness(images):
  """Logits of a teacher that knows little."""
  return images.mean(axis=(1, 2, 3))[:, None] * jnp.arange(10.0)[None]


def three(images):
  return jnp.zeros((len(images), 3))


def test_a_function_of_images_teaches(tmp_path):
  made = config('')
  made.teacher.name, made.teacher.path = (
    'tests.training.teacher_test:brightness',
    '',
  )
  made.teacher.args, made.baseline = {}, 'off'
  result = run_lib.train(made, run_dir.Folder(tmp_path / 'run'))
  teacher = result['teacher']
  assert teacher['network'] == 'tests.training.teacher_test:brightness'
  assert teacher['params'] == 0
  pixels = digits.read('test').image / np.float32(255)
  mean = (pixels.mean(axis=(1, 2, 3)) - digits.INFO.mean[0]) / (
    digits.INFO.std[0]
  )
  right = np.where(mean > 0, 9, 0) == digits.read('test').labels
  assert teacher['top1'] == pytest.approx(100 * right.mean(), abs=0.3)
  log = (tmp_path / 'run/metrics.jsonl').read_text()
  assert 'loss/kd' in log
  assert not (tmp_path / 'run/teacher').exists()


def test_a_function_of_other_classes_is_refused(tmp_path):
  made = config('')
  made.teacher.name, made.teacher.path = 'tests.training.teacher_test:three', ''
  made.teacher.args = {}
  with pytest.raises(errors.UsageError, match='there are 10 classes'):
    run_lib.train(made, run_dir.Folder(tmp_path / 'run'))


def test_a_function_has_no_dtype_to_choose():
  made = config('')
  made.teacher.name = 'tests.training.teacher_test:brightness'
  made.teacher.args, made.dtype = {}, 'bfloat16'
  with pytest.raises(errors.UsageError, match=r"teacher\.dtype='float32'"):
    build.build(made)
  made.teacher.dtype = 'float32'
  assert build.build(made).exp.teachers['teacher'].num_classes == 10


def test_a_teacher_of_unknown_training_stands_in_the_table():
  teacher = {'network': 'resnet34', 'top1': 70.0, 'params': 1, 'flops': 1.0}
  student = {**teacher, 'network': 'resnet18', 'wall_s': 1.0}
  result = {**student, 'method': 'kd', 'best_on_test': 1.0, 'teacher': teacher}
  row = next(
    line
    for line in report.closing('kd', result, None).splitlines()
    if line.startswith('teacher')
  )
  assert 'resnet34' in row
  assert '70.00%' in row
