"""A teacher's classes and those of the data are matched by their names."""

import functools
import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import config as config_lib
from kd_jax import errors, models
from kd_jax.data import resident, source
from kd_jax.data.sets import digits
from kd_jax.distill import build
from kd_jax.export import artifact
from kd_jax.runtime import run_dir
from kd_jax.training import classes, restore, teacher_path
from kd_jax.training import teacher as teacher_lib
from tests import finished
from tests.training import teacher_test

ALPHABETICAL = tuple(sorted(map(str, range(12))))


@pytest.mark.parametrize(
  ('theirs', 'ours', 'given', 'order', 'note'),
  [
    (('cat', 'dog'), ('cat', 'dog'), (), None, ''),
    (('dog', 'ant', 'cat'), ('ant', 'cat', 'dog'), (), [1, 2, 0], 'another o'),
    (('caf\u00e9', 'a'), ('a', 'cafe\u0301'), (), [1, 0], 'another order'),
    (None, ('cat', 'dog'), (), None, r'does not name .*\(cat, dog\)'),
    (('0', '1'), ('cat', 'dog'), (), None, 'it has numbers for names'),
    (('cat', 'dog'), ('0', '1'), (), None, 'the data have numbers for names'),
    (None, ('cat', 'dog'), ('dog', 'cat'), [1, 0], '^$'),
    (('x', 'y'), ('cat', 'dog'), ('data',), None, '^$'),
    (None, ALPHABETICAL, (), None, "'natural' is the order 0, 1, 2, 3, ..."),
  ],
)  # fmt: skip
def test_names_decide_the_order(theirs, ours, given, order, note):
  met = classes.match(theirs, ours, given)
  assert (met.order is None) == (order is None)
  if order is not None:
    assert met.order.tolist() == order
    names = given or theirs
    assert met.order.tolist() == [
      [classes._name(n) for n in names].index(classes._name(n)) for n in ours
    ]
  assert classes.re.search(note, met.note)


def test_the_natural_order_is_that_of_numbers():
  met = classes.match(None, ALPHABETICAL, ('natural',))
  assert met.order.tolist() == [int(name) for name in ALPHABETICAL]


@pytest.mark.parametrize(
  ('theirs', 'given', 'message'),
  [
    (('owl', 'yak'), (), 'are owl, yak, and .* cat, dog: none of 2 names are'),
    (('cat', 'yak'), (), '1 of 2 names is in both'),
    (('0', '2'), (), 'none of 2 names'),
    (None, ('cat', 'yak'), 'class_names=cat, yak: give the 2 names'),
    (None, ('cat',), 'class_names=cat: give the 2 names'),
  ],
)
def test_other_names_are_refused_with_both_lists(theirs, given, message):
  with pytest.raises(errors.UsageError, match=message):
    classes.match(theirs, ('cat', 'dog'), given)


class Own(nn.Module):
  """A network whose last layer is not called fc; `mixed` has none."""

  mixed: bool = False

  @nn.compact
  def __call__(self, images, *, train):
    x = nn.Dense(3, name='fc')(images.mean(axis=(1, 2)))
    if self.mixed:
      return nn.Dense(3, name='head')(x).cumsum(axis=-1)
    return nn.Dense(3, name='head')(nn.relu(x))


def test_the_last_layer_is_found_whatever_its_name():
  order = np.array([2, 0, 1])
  images = np.random.default_rng(1).normal(size=(4, 8, 8, 3))
  network = Own()
  images = images.astype(np.float32)
  old = network.init(jax.random.key(0), images, train=False)
  new = classes.ordered(network, old, order, 8)
  want = network.apply(old, images, train=False)[:, order]
  np.testing.assert_allclose(
    network.apply(new, images, train=False), want, rtol=1e-5
  )
  with pytest.raises(errors.UsageError, match='no layer of Own holds'):
    classes.ordered(Own(mixed=True), old, order, 8)


def test_the_outputs_of_maps_change_places_too():
  network = models.make('deeplab_resnet18_small', 5)
  images = np.random.default_rng(0).normal(size=(2, 24, 24, 3))
  images = images.astype(np.float32)
  old = jax.jit(functools.partial(network.init, train=False))(
    jax.random.key(0), images
  )
  order = np.array([4, 2, 0, 1, 3])
  new = classes.ordered(network, old, order, 24)
  found, want = (
    network.apply(variables, images, train=False) for variables in (new, old)
  )
  assert want.ndim == 4
  np.testing.assert_allclose(found, want[..., order], rtol=1e-4, atol=1e-5)


def exported(folder, names):
  """An export of the finished run, with other names of its classes."""
  shutil.copytree(finished.places() / 'kd_out', folder)
  facts = json.loads((folder / artifact.FACTS).read_text())
  facts['class_names'] = names
  (folder / artifact.FACTS).write_text(json.dumps(facts))
  return folder


def test_a_teacher_of_turned_classes_teaches_those_of_the_data(tmp_path):
  place = exported(tmp_path / 'turned', [str(k) for k in range(10)][::-1])
  made, said = teacher_test.config(place), []
  parts, folder = build.build(made), run_dir.Folder(tmp_path / 'run')
  test = digits.read('test')
  split = resident.Resident(test, digits.INFO, parts.mesh)
  frozen, facts = teacher_lib.obtain(
    made, parts, folder, {'test': split}.get, None, said.append
  )
  found = restore.load(place)
  logits = np.asarray(found.forward(found.weights, jnp.asarray(test.image)))
  right = 9 - logits.argmax(-1) == test.labels
  assert facts['teacher']['top1'] == pytest.approx(100 * right.mean(), abs=0.3)
  fc = frozen['teacher']['params']['fc']
  np.testing.assert_array_equal(
    fc['kernel'], found.weights['student/params/fc/kernel'][:, ::-1]
  )
  assert 'its classes are in another order (9, 8, 7, 6, ..., 0)' in said[0]
  folder.path = tmp_path / 'other'
  folder.claim(config_lib.plain(made), {})
  made.teacher.class_names = ('data',)
  with pytest.raises(errors.UsageError, match=r'teacher\.class_names'):
    folder.claim(config_lib.plain(made), {})


def test_a_teacher_of_other_classes_is_refused_before_anything_is_written(
  tmp_path,
):
  made = teacher_test.config(
    exported(tmp_path / 'other', [f'digit {k}' for k in range(10)])
  )
  parts, folder = build.build(made), run_dir.Folder(tmp_path / 'run')
  info = digits.INFO._replace(class_names=tuple('abcdefghij'))
  parts = parts._replace(source=source.Source(info, digits.read))
  with pytest.raises(
    errors.UsageError, match=r'teacher\.path=.*none of 10 names'
  ):
    teacher_lib.check(made, parts, folder)
  made.teacher.class_names = ('data',)
  teacher_lib.check(made, parts, folder)
  made.teacher.path = ''
  with pytest.raises(errors.UsageError, match='for a teacher of config'):
    teacher_lib.check(made, parts, folder)


def test_a_file_of_weights_says_that_it_names_no_classes(tmp_path):
  file = tmp_path / 'resnet8.safetensors'
  made, said = teacher_test.config(file), []
  teacher_test.saved(file, made)
  parts, folder = build.build(made), run_dir.Folder(tmp_path / 'run')
  split = resident.Resident(digits.read('test'), digits.INFO, parts.mesh)
  arguments = ({'test': split}.get, None, said.append)
  for _ in range(2):  # from the file, and from the run's folder
    teacher_lib.obtain(made, parts, folder, *arguments)
    assert len(said) == 1
    line = said.pop()
    assert '% on test; it does not name its classes' in line
    assert '\n' not in line
  # The same file again is the same teacher; another one is refused.
  teacher_lib.check(made, parts, folder)
  content = file.read_bytes()
  file.write_bytes(content[:-4] + b'\0\0\0\0')
  with pytest.raises(errors.UsageError, match='holds another teacher'):
    teacher_lib.check(made, parts, folder)
  file.unlink()
  teacher_lib.check(made, parts, folder)


def test_a_run_and_an_export_in_its_place_are_other_teachers(tmp_path):
  made = teacher_test.config(tmp_path / 'teacher')
  shutil.copytree(finished.places() / 'kd_out', tmp_path / 'teacher')
  parts, folder = build.build(made), run_dir.Folder(tmp_path / 'run')
  folder.write('teacher.json', {'digest': teacher_path.digest(made)})
  teacher_lib.check(made, parts, folder)
  shutil.rmtree(tmp_path / 'teacher')
  shutil.copytree(finished.places() / 'kd', tmp_path / 'teacher')
  with pytest.raises(errors.UsageError, match='holds another teacher'):
    teacher_lib.check(made, parts, folder)
  folder.write('teacher.json', {'digest': teacher_path.digest(made)})
  teacher_lib.check(made, parts, folder)
