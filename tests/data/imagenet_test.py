"""ImageNet from its own archives, with few classes and small images."""

import collections
import gzip
import io
import json
import pathlib
import shutil
import sys

from etils import epath
import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from kd_jax import data, errors
from kd_jax.cli import prepare as command
from kd_jax.data import decode
from kd_jax.data.sets import identity, imagenet, imagenet_tars, prepared, shards
from kd_jax.runtime import digests, downloads
from tests import children
from tests.data import archives
from tests.runtime import bucket

ROOT = pathlib.Path(__file__).parent.parent.parent

LEAST = 3000  # bytes of a shard


@pytest.fixture
def small(tmp_path, monkeypatch):
  """Archives in `tars`, which become a few shards; (wnids, images)."""
  monkeypatch.setattr(shards, 'LEAST_BYTES', LEAST)
  (tmp_path / 'tars').mkdir()
  return archives.imagenet(tmp_path / 'tars')


def prepared_in(tmp_path, name='data', **more):
  options = {'any_checksum': True, 'any_counts': True, **more}
  return pathlib.Path(
    imagenet.prepare(
      str(tmp_path / 'tars'), data_dir=str(tmp_path / name), **options
    )
  )


@pytest.fixture(scope='module')
def built(tmp_path_factory):
  """A prepared data set that is only read: (folder, wnids, images)."""
  folder = tmp_path_factory.mktemp('built')
  (folder / 'tars').mkdir()
  wnids, images = archives.imagenet(folder / 'tars')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(shards, 'LEAST_BYTES', LEAST)
    return prepared_in(folder), wnids, images


def opened(folder):
  return data.open_source(
    'imagenet2012', data_dir=str(folder.parent.parent), image_size=16
  )


def content(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_tfds_reads_each_file_with_its_class(built):
  folder, wnids, images = built
  builder = tfds.builder_from_directory(str(folder))
  assert builder.info.full_name == 'imagenet2012/5.1.0'
  assert list(builder.info.features['label'].names) == wnids
  assert builder.info.splits['train'].num_shards > 1
  skip = {'image': tfds.decode.SkipDecoding()}
  for split, wanted in images.items():
    records = builder.as_data_source(split, decoders=skip)
    got = {record['file_name'].decode(): record for record in records}
    assert got.keys() == wanted.keys()
    for name, (wnid, file) in wanted.items():
      assert wnids[got[name]['label']] == wnid
      if decode.is_plain_jpeg(file):
        assert got[name]['image'] == file


def test_a_png_and_a_cmyk_image_become_jpegs_with_the_same_look(built):
  folder, wnids, images = built
  records = tfds.builder_from_directory(str(folder)).as_data_source('train')
  got = {record['file_name'].decode(): record['image'] for record in records}
  for name in [f'{wnids[1]}_{j}.JPEG' for j in (0, 1)]:
    file = images['train'][name][1]
    assert not decode.is_plain_jpeg(file)
    wanted = np.asarray(Image.open(io.BytesIO(file)).convert('RGB'))
    error = np.abs(got[name].astype(float) - wanted).mean()
    assert error < 5  # levels, of noise in a JPEG of quality 95


def test_the_reader_of_imagenet2012_reads_it(built):
  folder, wnids, images = built
  source = opened(folder)
  assert source.info.class_names == tuple(wnids)
  assert (source.info.num_train, source.info.num_test) == (12, 6)
  wanted = collections.Counter(w for w, _ in images['validation'].values())
  counts = np.bincount(source.split('test').labels, minlength=3)
  assert counts.tolist() == [wanted[wnid] for wnid in wnids]


def test_two_builds_are_the_same_bit_for_bit(tmp_path, small, built, capsys):
  del small
  first = content(built[0])
  assert first == content(prepared_in(tmp_path))
  said = capsys.readouterr().out
  assert said.count('is no RGB or grey JPEG; it is encoded as one') == 2
  assert first != content(prepared_in(tmp_path, 'other', seed=1))


def test_the_order_is_mixed_and_does_not_depend_on_that_of_the_archive(
  tmp_path, small
):
  del small
  rows = [shards.Row(f'{i}.JPEG', 0, 512 * i, 100) for i in range(50)]
  orders = [
    [r for s in shards.planned(tmp_path, 'a', 'b', given, 'c', 0) for r in s[2]]
    for given in (rows, rows[::-1])
  ]
  assert orders[0] == orders[1] != rows
  assert sorted(orders[0], key=lambda row: row.offset) == rows


def test_what_imagenet_becomes_has_tfds_number_of_shards():
  def of(images, size):
    return shards.count([shards.Row('', 0, 0, size)] * images)

  assert of(20_000, 138_000_000_000 // 20_000) == 1024
  assert of(5_000, 6_700_000_000 // 5_000) == 64
  assert of(1, 1) == 1


def test_a_build_that_broke_off_goes_on_with_the_missing_shards(
  tmp_path, small, built, monkeypatch
):
  del small
  whole = content(built[0])
  write, calls = shards.write, []

  def breaks(shard):
    if len(calls) == 2:
      pathlib.Path(f'{shard.path}.7.part').write_bytes(b'half')
      raise errors.RunError('no power')
    calls.append(shard.path)
    return write(shard)

  monkeypatch.setattr(shards, 'write', breaks)
  with pytest.raises(errors.RunError, match='no power'):
    prepared_in(tmp_path)
  assert prepared.find('imagenet2012', epath.Path(tmp_path / 'data')) is None
  monkeypatch.setattr(
    shards, 'write', lambda shard: calls.append(shard.path) or write(shard)
  )
  assert content(prepared_in(tmp_path)) == whole
  number = sum('array_record' in name for name in whole)
  assert len(calls) == len(set(calls)) == number


def test_the_archives_checksums_are_compared_once_a_build(
  tmp_path, small, monkeypatch
):
  del small
  archives_here = {
    split: published._replace(
      checksum=downloads.digest(
        epath.Path(tmp_path / 'tars' / published.url.rsplit('/', 1)[-1]), 'md5'
      )
    )
    for split, published in imagenet_tars.PUBLISHED.items()
  }
  monkeypatch.setattr(imagenet_tars, 'PUBLISHED', archives_here)
  verify, calls = downloads.verify, []

  def counted(wanted, path, cure):
    calls.append(path.name)
    verify(wanted, path, cure)

  monkeypatch.setattr(downloads, 'verify', counted)
  with monkeypatch.context() as patch:
    patch.setattr(shards, 'write', lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      prepared_in(tmp_path, any_checksum=False)
  assert prepared_in(tmp_path, any_checksum=False).name == '5.1.0'
  assert calls == ['ILSVRC2012_img_train.tar', 'ILSVRC2012_img_val.tar']


def test_a_build_does_not_go_on_with_another_seed(tmp_path, small, monkeypatch):
  del small
  with monkeypatch.context() as patch:
    patch.setattr(shards, 'write', lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
      prepared_in(tmp_path)
  with pytest.raises(errors.UsageError, match=r'another seed \(0, not 1\)'):
    prepared_in(tmp_path, seed=1)


def test_what_is_prepared_is_left_as_it_is(built):
  before = content(built[0])
  assert prepared_in(built[0].parent.parent.parent, seed=1) == built[0]
  assert content(built[0]) == before


def test_a_disk_that_is_too_small_is_refused(tmp_path, small, monkeypatch):
  del small
  free = shutil.disk_usage(tmp_path)._replace(free=5)
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: free)
  with pytest.raises(
    errors.UsageError, match=r'GB more, and its disk has 0\.0'
  ):
    prepared_in(tmp_path)


@pytest.mark.parametrize(
  ('options', 'said'),
  [
    ({'any_counts': False}, '12 training images of 3 classes and 6 validation'),
    ({'any_checksum': False}, 'img_train.tar .* is not .*1d675b47d978889d74fa'),
    ({'labels': 'nowhere'}, 'cannot read the labels in nowhere'),
    ({'data_dir': 'gs://bucket'}, 'a disk; give a folder'),
  ],
)
def test_what_cannot_be_prepared_is_refused(tmp_path, small, options, said):
  del small
  options = {'data_dir': str(tmp_path / 'data'), **options}
  options = {'any_counts': True, 'any_checksum': True, **options}
  with pytest.raises(errors.UsageError, match=said):
    imagenet.prepare(str(tmp_path / 'tars'), **options)
  assert not list(tmp_path.glob('data/imagenet2012/*/*.array_record*'))


def cut(path):
  path.write_bytes(path.read_bytes()[:-12_000])


def packed(path):
  path.write_bytes(gzip.compress(path.read_bytes()))


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (cut, 'no whole tar of files'),
    (packed, 'do not compress it'),
    (pathlib.Path.unlink, 'is not there: fetch'),
    (
      lambda path: path.write_bytes(archives.tar({'a.JPEG': b''})),
      'one tar n01234567.tar for each class',
    ),
  ],
)
def test_another_training_archive_is_refused(tmp_path, small, change, said):
  del small
  change(tmp_path / 'tars/ILSVRC2012_img_train.tar')
  with pytest.raises(errors.UsageError, match=said):
    prepared_in(tmp_path)


def test_validation_images_of_other_classes_are_left_out(
  tmp_path, small, capsys
):
  wnids, images = small
  train = {
    f'{wnid}.tar': archives.tar({f'{wnid}_1.JPEG': file})
    for wnid, file in images['train'].values()
    if wnid != wnids[0] and decode.is_plain_jpeg(file)
  }
  path = tmp_path / 'tars/ILSVRC2012_img_train.tar'
  path.write_bytes(archives.tar(train))
  builder = tfds.builder_from_directory(str(prepared_in(tmp_path)))
  of_others = sum(w == wnids[0] for w, _ in images['validation'].values())
  kept = builder.info.splits['validation'].num_examples
  assert kept == 6 - of_others < 6
  assert f'{of_others} of other classes' in capsys.readouterr().out


@pytest.mark.parametrize('kind', ['kit', 'folder', 'wnids', 'names', 'csv'])
def test_validation_labels_are_read_in_each_form(tmp_path, small, kind):
  _, images = small
  wanted = {name: wnid for name, (wnid, _) in images['validation'].items()}
  path = tmp_path / 'labels.txt'
  if kind in ('kit', 'folder'):
    path = tmp_path / 'tars/ILSVRC2012_devkit_t12.tar.gz'
  if kind == 'folder':
    shutil.unpack_archive(path, tmp_path / 'kit')
    path = tmp_path / 'kit'
  if kind == 'wnids':
    path.write_text('\n'.join(wanted[name] for name in sorted(wanted)))
  if kind == 'names':
    path.write_text('\n'.join(f'{n} {w}' for n, w in wanted.items()) + '\n\n')
  if kind == 'csv':
    rows = (f'{n.removesuffix(".JPEG")},{w} 1 2\n' for n, w in wanted.items())
    path.write_text('ImageId,PredictionString\n' + ''.join(rows))
  got = imagenet_tars.validation_labels([*wanted], path)
  assert got == wanted


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('n00000011\n', '1 labels for 2 validation images'),
    ('490\n361\n', "the label '490': give a wnid"),
    ('a.JPEG n00000011', "b.JPEG the label ''"),
  ],
)
def test_labels_that_are_no_wnids_are_refused(tmp_path, text, said):
  path = tmp_path / 'labels.txt'
  path.write_text(text)
  with pytest.raises(errors.UsageError, match=said):
    imagenet_tars.validation_labels(['a.JPEG', 'b.JPEG'], path)


def test_without_a_kit_the_labels_are_those_of_tensorflow_datasets():
  names = [f'ILSVRC2012_val_{i + 1:08d}.JPEG' for i in range(50_000)]
  counts = collections.Counter(
    imagenet_tars.validation_labels(names, None).values()
  )
  assert len(counts) == 1000
  assert set(counts.values()) == {50}


def test_the_digests_beside_the_shards_are_those_of_the_files(built, tmp_path):
  folder = built[0]
  stated = json.loads((folder / identity.DIGESTS).read_text())
  assert sum('array_record' in name for name in stated) > 2
  read = digests.of_files({name: folder / name for name in stated}, 'here')
  assert {name: digest for name, (_, digest) in stated.items()} == read
  copy = tmp_path / 'imagenet2012/5.1.0'
  shutil.copytree(folder, copy)
  (copy / identity.DIGESTS).unlink()
  assert opened(copy).info.fingerprint == opened(folder).info.fingerprint


def test_a_copy_that_broke_off_is_refused(built, tmp_path):
  copy = tmp_path / 'imagenet2012/5.1.0'
  shutil.copytree(built[0], copy)
  shard = next(copy.glob('*validation*'))
  shard.write_bytes(shard.read_bytes()[:-1])
  with pytest.raises(errors.UsageError, match=f'{shard.name} has .*: copy the'):
    opened(copy)
  shard.unlink()
  with pytest.raises(errors.UsageError, match=f'{shard.name} has 0 bytes'):
    opened(copy)


def test_a_shard_that_was_not_built_and_a_damaged_list_are_refused(
  built, tmp_path
):
  copy = tmp_path / 'imagenet2012/5.1.0'
  shutil.copytree(built[0], copy)
  shard = next(copy.glob('*train*'))
  more = copy / shard.name.replace('train', 'trained')
  shutil.copy(shard, more)
  (copy / identity.DIGESTS).write_text('{"a": [1')
  with pytest.raises(errors.UsageError, match='is damaged: copy the folder'):
    opened(copy)
  shutil.copy(built[0] / identity.DIGESTS, copy)
  with pytest.raises(errors.UsageError, match=f'{more.name} was not written'):
    opened(copy)


def test_where_it_is_not_prepared_the_command_is_said(tmp_path):
  with pytest.raises(errors.UsageError, match='kd-jax prepare imagenet2012'):
    data.open_source('imagenet2012', data_dir=str(tmp_path), image_size=16)


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (['imagenet'], "unknown data set to prepare 'imagenet'; did you mean"),
    (['imagenet2012', '--workers=-1'], '--workers=-1: give 1 to 256'),
    (['imagenet2012', '--data_dir=gs://b'], "--data_dir='gs://b': shards"),
  ],
)
def test_a_mistake_in_the_command_is_one_line(capsys, arguments, said):
  assert command.main([arguments[0], 'nowhere', *arguments[1:]]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert said in line


def test_shards_in_a_bucket_are_read_from_there(built, monkeypatch):
  pytest.importorskip('gcsfs', reason='buckets need gcsfs')
  fsspec = pytest.importorskip('fsspec')
  folder, _, _ = built
  with bucket.Server() as server:
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', server.url)
    monkeypatch.setenv('CLOUD_STORAGE_EMULATOR_ENDPOINT', server.url)
    monkeypatch.setenv('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
    fsspec.filesystem('gcs').clear_instance_cache()  # of an older server
    for path in folder.iterdir():
      key = f'data/imagenet2012/5.1.0/{path.name}'
      server.objects['bucket', key] = 1, path.read_bytes()
    there = data.open_source(
      'imagenet2012', data_dir='gs://bucket/data', image_size=16
    )
    here = opened(folder)
    # Nor is a listing kept, which would hide what other machines write.
    server.change(('bucket', 'data/imagenet2012/5.1.0/new'), b'', {})
    assert epath.Path('gs://bucket/data/imagenet2012/5.1.0/new').exists()
    assert there.info.place == 'gs://bucket/data'
    assert there.info.identity() == here.info.identity()
    read = there.split('train').read(3)
    want = here.split('train').read(3)
    np.testing.assert_array_equal(read[0], want[0])
    assert read[1] == want[1]


@pytest.mark.drill
def test_processes_that_are_killed_leave_whole_shards_to_go_on_with(tmp_path):
  (tmp_path / 'tars').mkdir()
  archives.imagenet(tmp_path / 'tars', classes=20, per_class=60)
  code = (
    'import sys; from kd_jax.cli import app; from kd_jax.data.sets import '
    'shards; shards.LEAST_BYTES = 6000; sys.exit(app.main(sys.argv[1:]))'
  )
  command = [sys.executable, '-c', code, 'prepare', 'imagenet2012']
  command += [str(tmp_path / 'tars'), '--any_checksum', '--any_counts']
  for name, workers in (('whole', 0), ('data', 2)):
    arguments = [f'--data_dir={tmp_path / name}', f'--workers={workers}']
    if name == 'data':
      with children.Child([*command, *arguments], cwd=ROOT) as process:
        children.until(
          lambda: len(list(tmp_path.glob('data/*/*/*-of-?????'))) > 4, process
        )
        process.kill()
      half = content(next(tmp_path.glob('data/imagenet2012/*')))
    children.run([*command, *arguments], cwd=ROOT, check=True)
  whole = content(tmp_path / 'whole/imagenet2012/5.1.0')
  assert content(tmp_path / 'data/imagenet2012/5.1.0') == whole
  kept = {n for n in half if n.startswith('imagenet') and '.part' not in n}
  assert 4 < len(kept) < len(whole) - 4
  assert all(half[name] == whole[name] for name in kept)


@pytest.mark.drill
def test_a_run_streams_the_shards(built, tmp_path):
  options = {
    'cache_dir': tmp_path / 'cache',
    'epochs': 1,
    'batch_size': 4,
    'student.name': 'resnet8',
    'data.name': 'imagenet2012',
    'data.data_dir': built[0].parent.parent,
    'data.image_size': 16,
    'data.train_size': 0,
    'data.augment': 'random_resized_crop',
    'data.workers': 1,
  }
  command = [sys.executable, '-m', 'kd_jax.main', '--config=ce']
  command += [f'--config.{key}={value}' for key, value in options.items()]
  command += [f'--workdir={tmp_path / "run"}']
  ended = children.run(command, cwd=ROOT, check=True)
  assert '12 training and 6 test images, 16x16, 3 classes' in ended.stdout
  last = (tmp_path / 'run/metrics.jsonl').read_text().splitlines()[-1]
  assert json.loads(last)['step'] == 3
