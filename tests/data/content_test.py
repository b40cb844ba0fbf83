"""Data are known by what they hold, not by their name and counts."""

import os
import threading

import numpy as np
from PIL import Image
import pytest

from kd_jax import config as config_lib
from kd_jax import data, errors
from kd_jax.data.sets import identity, prepared
from kd_jax.runtime import durable, run_dir
from kd_jax.training import datasets, teacher
from kd_jax.training import run as run_lib
from tests.data import archives


def photos(root, first=0, classes=('cat', 'dog')):
  """A folder of images of 8 pixels, in all of which the colours are alike."""
  rng = np.random.default_rng(0)
  for split, count in (('train', 4), ('val', 2)):
    for name in classes:
      place = root / split / name
      place.mkdir(parents=True, exist_ok=True)
      for i in range(count):
        pixels = rng.permutation(np.arange(192)).reshape(8, 8, 3)
        pixels = np.roll(pixels, first, axis=0).astype(np.uint8)
        Image.fromarray(pixels).save(place / f'{i}.png')
  return root


def swap(one, other):
  aside = one.with_name('aside')
  one.rename(aside)
  other.rename(one)
  aside.rename(other)


def opened(name, **more):
  data.open_source.cache_clear()
  return data.open_source(name, mean=(0.5,) * 3, std=(0.3,) * 3, **more)


def configuration(name):
  made = config_lib.digits()
  made.method, made.weights = 'ce', {'ce': 1.0}
  made.teacher.name = ''
  made.student = config_lib.network('resnet8', widths=(4, 4, 8, 16))
  made.data.update(name=name, train_size=0, mean=(0.5,) * 3, std=(0.3,) * 3)
  made.batch_size, made.epochs = 8, 1
  return made


def test_folders_of_one_name_and_shape_share_no_network(tmp_path, monkeypatch):
  places = {}
  for fold in (0, 1):
    photos(tmp_path / f'fold{fold}/photos', fold)
    monkeypatch.chdir(tmp_path / f'fold{fold}')
    info = opened('folder:photos').info
    assert info.place == str(tmp_path / f'fold{fold}/photos')
    for kind in ('teacher', 'alone'):
      made = configuration('folder:photos')
      places[kind, fold] = teacher.cache_folder(made, info, kind).path
  assert len({*places.values()}) == 4
  # The same images elsewhere are the same data.
  (tmp_path / 'fold1').rename(tmp_path / 'moved')
  monkeypatch.chdir(tmp_path / 'moved')
  assert opened('folder:photos').info.identity() == info.identity()


def test_a_run_of_data_that_have_changed_is_refused_with_what_changed(tmp_path):
  root = photos(tmp_path / 'photos')
  made = configuration(f'folder:{root}')
  info = opened(made.data.name).info
  folder = run_dir.Folder(tmp_path / 'run')
  folder.claim(config_lib.plain(made), info.identity())
  folder.write('result.json', {'steps': 1, 'top1': 99.0})
  assert run_lib.train(made, folder)['top1'] == 99.0
  assert folder.read('data.json') == {'place': str(root)}
  for split in ('train', 'val'):  # the counts stay as they are
    swap(root / split / 'cat/0.png', root / split / 'dog/0.png')
  data.open_source.cache_clear()
  with pytest.raises(errors.UsageError, match='a run of other data') as raised:
    run_lib.train(made, folder)
  assert (
    'of 12 files and labels 4 other than before (train/cat/0.png, '
    'train/dog/0.png, val/cat/0.png, ...)' in str(raised.value)
  )


def test_a_run_from_before_fingerprints_takes_the_first_that_it_sees(
  tmp_path, capsys
):
  made = configuration('folder:photos')
  info = opened(f'folder:{photos(tmp_path / "photos")}').info
  info = info._replace(name=made.data.name)
  folder, plain = run_dir.Folder(tmp_path / 'run'), config_lib.plain(made)
  folder.claim(plain, info._replace(fingerprint='').identity())
  folder.claim(plain, info.identity())
  assert 'was begun before data were known' in capsys.readouterr().out
  with pytest.raises(errors.UsageError, match='a run of other data'):
    folder.claim(plain, info._replace(fingerprint='1').identity())


def test_prepared_records_are_known_by_their_bytes(tmp_path):
  archive = tmp_path / 'cifar.tar.gz'
  archives.cifar(archive, 10, per_class=1)

  def prepared(place):
    where = {'data_dir': str(tmp_path / place), 'archive': str(archive)}
    return opened('cifar10', **where, any_checksum=True).info.fingerprint

  first = prepared('one')
  assert prepared('two') == first != ''
  files = [*(tmp_path / 'two').rglob('*.array_record*')]
  content = files[0].read_bytes()
  stat = files[0].stat()
  files[0].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
  os.utime(files[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
  assert prepared('two') != first


def cifar(place, archive=''):
  """The fingerprint of CIFAR-10 in a folder, prepared if it is not there."""
  given = {'archive_path': str(archive), 'any_checksum': True}
  opened = prepared.open_prepared('cifar10', data_dir=str(place), **given)
  return opened.info.fingerprint


@pytest.fixture
def archive(tmp_path):
  """An archive of CIFAR-10 with few images."""
  file = tmp_path / 'cifar.tar.gz'
  archives.cifar(file, 10, per_class=1)
  return file


def origin(place):
  """What was written of the archive from which a data set was made."""
  return next(place.glob('cifar10/*')) / identity.ORIGIN


def test_who_opens_a_set_as_its_preparation_ends_sees_the_same_data(
  tmp_path, archive, monkeypatch
):
  remember, seen = identity.remember, []
  other = threading.Thread(target=lambda: seen.append(cifar(tmp_path / 'data')))

  def slow(*args):
    other.start()
    other.join(2.0)  # it waits for the lock, or has opened the data
    remember(*args)

  monkeypatch.setattr(identity, 'remember', slow)
  first = cifar(tmp_path / 'data', archive)
  other.join()
  assert seen == [first] == [cifar(tmp_path / 'data')]


def test_a_kill_as_a_sets_origin_is_written_leaves_a_set_that_opens(
  tmp_path, archive, monkeypatch
):
  def killed(number, content):
    os.write(number, content[:20])
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(durable, '_write_all', killed)
    with pytest.raises(KeyboardInterrupt):
      cifar(tmp_path / 'data', archive)
  assert cifar(tmp_path / 'data') != ''


def test_a_set_without_an_origin_opens_without_a_lock(tmp_path, archive):
  cifar(tmp_path / 'data', archive)
  origin(tmp_path / 'data').unlink()
  lock = tmp_path / 'data/.cifar10.lock'
  of_records = cifar(tmp_path / 'data')
  lock.unlink()
  assert cifar(tmp_path / 'data') == of_records
  assert not lock.exists()
  lock.mkdir()  # as one that may not be written
  assert cifar(tmp_path / 'data') == of_records


@pytest.mark.parametrize('content', ['', '{"archive": "8', '[]', '{}'])
def test_a_damaged_origin_is_one_line_with_a_cure(tmp_path, archive, content):
  cifar(tmp_path / 'data', archive)
  origin(tmp_path / 'data').write_text(content)
  with pytest.raises(
    errors.UsageError, match=r'origin\.json is damaged: .*remove the file'
  ):
    cifar(tmp_path / 'data')


def test_a_program_sees_what_has_changed_since_it_opened_data(
  tmp_path, monkeypatch
):
  for name in ('one', 'two'):
    photos(tmp_path / name / 'photos')
  monkeypatch.chdir(tmp_path / 'one')
  first = opened('folder:photos')
  options = {'mean': (0.5,) * 3, 'std': (0.3,) * 3}

  def again():
    data.forget_changed()
    return data.open_source('folder:photos', **options)

  assert again() is first
  swap(*(tmp_path / f'one/photos/val/{c}/0.png' for c in ('cat', 'dog')))
  second = again()
  assert second.info.fingerprint != first.info.fingerprint
  monkeypatch.chdir(tmp_path / 'two')
  assert again().info.place == str(tmp_path / 'two/photos')
  assert again().info.fingerprint == first.info.fingerprint


def test_processes_that_see_other_data_are_refused(monkeypatch):
  info = data.open_source('digits').info
  monkeypatch.setattr(
    datasets.distributed, 'gather', lambda value: [value, '1', value]
  )
  with pytest.raises(errors.UsageError, match='process 1 sees other images'):
    datasets.check_same(info)
