"""A file of arrays as a data set: what it gives, and what is refused."""

import functools
import json
import pickle

import numpy as np
import pytest

from kd_jax import config as config_lib
from kd_jax import data, errors
from kd_jax.cli import evaluate
from kd_jax.data import decode
from kd_jax.data.sets import digits, npz
from kd_jax.distill import build
from kd_jax.export import artifact
from kd_jax.runtime import run_dir
from kd_jax.training import restore, run, teacher
from tests.cli import train_test
from tests.runtime import bucket


def arrays(**changes):
  """MedMNIST's layout: 3 classes of grey images of 12 pixels, labels [N,1]."""
  rng, made = np.random.default_rng(0), {}
  for split, count in (('train', 12), ('val', 3), ('test', 6)):
    made[f'{split}_images'] = rng.integers(0, 256, (count, 12, 12), np.uint8)
    made[f'{split}_labels'] = (np.arange(count)[:, None] % 3).astype(np.uint8)
  changed = {**made, **changes}
  return {key: value for key, value in changed.items() if value is not None}


def write(path, save=np.savez, **given):
  save(path, **given)
  return f'npz:{path}'


def opened(name, **more):
  data.open_source.cache_clear()
  return data.open_source(name, **more)


def digit_arrays():
  train, test = digits.read('train'), digits.read('test')
  return {
    'train_images': train.image,
    'train_labels': train.labels,
    'test_images': test.image,
    'test_labels': test.labels,
  }


def small(name, folder, **more):
  """Two epochs of four steps of a student alone, in that folder."""
  data.open_source.cache_clear()
  config = train_test.configuration('ce').get_config('digits')
  config.data.name, config.data.train_size, config.batch_size = name, 80, 20
  config.epochs, config.mesh.data, config.eval_every = 2, 1, 1.0
  config.student.name = 'resnet8'
  config.student.args.widths = (4, 4, 8, 16)
  config.update(more)
  return run.train(config, run_dir.Folder(folder))


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_a_file_as_medmnist_writes_it_is_a_data_set(tmp_path, save):
  made = arrays()
  source = opened(write(tmp_path / 'x.npz', save, **made))
  info = source.info
  assert info.class_names == ('0', '1', '2')
  assert info.image_size == 12
  assert (info.num_train, info.num_val, info.num_test) == (12, 3, 6)
  for split in ('train', 'val', 'test'):
    got, grey = source.arrays(split), made[f'{split}_images']
    np.testing.assert_array_equal(got.image, np.stack([grey] * 3, axis=-1))
    np.testing.assert_array_equal(got.labels, made[f'{split}_labels'][:, 0])
    assert got.labels.dtype == np.int32
  scaled = made['train_images'] / 255
  np.testing.assert_allclose(info.mean, [scaled.mean()] * 3, atol=5.1e-5)
  np.testing.assert_allclose(info.std, [scaled.std()] * 3, atol=5.1e-5)


@pytest.mark.parametrize('shape', [(), (1,), (3,)])
def test_each_channel_has_its_own_moments(tmp_path, shape):
  rng = np.random.default_rng(1)
  images = rng.integers(0, 200, (7, 5, 5, *shape), np.uint8)
  images = np.asfortranarray(images)  # another order in the file
  own = {f'{split}_images': images for split in ('train', 'test')}
  own |= {f'{split}_labels': np.arange(7) for split in ('train', 'test')}
  source = opened(write(tmp_path / 'x.npz', **own))
  pixels = source.arrays('train').image / 255
  np.testing.assert_allclose(
    source.info.mean, pixels.mean((0, 1, 2)), atol=6e-5
  )
  np.testing.assert_allclose(source.info.std, pixels.std((0, 1, 2)), atol=6e-5)
  for i in range(7):
    image, label = source.split('test').read(i)
    want = images[i].reshape(5, 5, -1)
    np.testing.assert_array_equal(image, np.broadcast_to(want, (5, 5, 3)))
    assert label == i


def test_names_of_classes_are_those_of_the_file(tmp_path):
  names = np.array(['cat', 'dog', 'zebra'])
  source = opened(write(tmp_path / 'x.npz', **arrays(class_names=names)))
  assert source.info.class_names == ('cat', 'dog', 'zebra')
  assert json.dumps(source.info.class_names) == '["cat", "dog", "zebra"]'


def test_images_are_scaled_to_the_size_that_is_asked_for(tmp_path):
  made = arrays()
  source = opened(write(tmp_path / 'x.npz', **made), image_size=8)
  assert source.info.image_size == 8
  grey = np.stack([made['test_images'][4]] * 3, axis=-1)
  want = decode.fit(grey, 8)
  np.testing.assert_array_equal(source.arrays('test').image[4], want)


def test_a_negative_image_size_is_refused(tmp_path):
  name = write(tmp_path / 'x.npz', **arrays())
  with pytest.raises(errors.UsageError, match='image_size=-8: give pixels'):
    opened(name, image_size=-8)


def test_images_are_read_when_they_are_asked_for(tmp_path, monkeypatch):
  read = []
  whole = npz._read

  def seen(path, key):
    read.append(key)
    return whole(path, key)

  monkeypatch.setattr(npz, '_read', seen)
  own = {'mean': (0.5,) * 3, 'std': (0.25,) * 3}
  source = opened(write(tmp_path / 'x.npz', **arrays()), **own)
  assert (source.info.mean, source.info.std) == (own['mean'], own['std'])
  assert read == ['train_labels', 'val_labels', 'test_labels']
  source.split('test').read(0)
  source.split('test').read(1)
  assert read[3:] == ['test_images']


def test_a_worker_process_gets_no_pixels_but_reads_them_itself(tmp_path):
  images = opened(write(tmp_path / 'x.npz', **arrays())).split('train')
  assert 'pixels' in vars(images)  # as the moments left them
  there = pickle.loads(pickle.dumps(images))
  assert 'pixels' not in vars(there)
  np.testing.assert_array_equal(there.read(3)[0], images.read(3)[0])


def test_a_subset_of_training_leaves_the_files_own_val_split(tmp_path):
  made = arrays()
  source = opened(write(tmp_path / 'x.npz', **made), train_size=6)
  assert (source.info.num_train, source.info.num_val) == (6, 3)
  assert np.bincount(source.split('train').labels).tolist() == [2, 2, 2]
  got = source.arrays('val').image[..., 0]
  np.testing.assert_array_equal(got, made['val_images'])


def test_a_file_without_val_may_hold_out_training_images(tmp_path):
  made = arrays(val_images=None, val_labels=None)
  source = opened(write(tmp_path / 'x.npz', **made), val_fraction=0.25)
  assert (source.info.num_train, source.info.num_val) == (9, 3)
  assert source.arrays('val').labels.tolist() == [0, 1, 2]


def test_holding_out_more_beside_the_files_val_split_is_refused(tmp_path):
  name = write(tmp_path / 'x.npz', **arrays())
  with pytest.raises(errors.UsageError, match="own split 'val' of 3 images"):
    opened(name, val_fraction=0.25)


def float_images():
  return np.zeros((12, 12, 12), np.float32)


REFUSED = {
  'test_labels missing': (
    {'test_labels': None},
    r'lacks test_labels; it holds train_images, .*, test_images; write it',
  ),
  'val_labels missing': ({'val_labels': None}, r'lacks val_labels; it holds'),
  'float images': ({'train_images': float_images()}, r'float32; .* as uint8'),
  '3-D images': (
    {'train_images': np.zeros((12, 9, 9, 9), np.uint8)},
    r'train_images has shape \[12, 9, 9, 9\]; give .* square',
  ),
  'channels first': (
    {'test_images': np.zeros((6, 3, 12, 12), np.uint8)},
    r'test_images has shape \[6, 3, 12, 12\]; .* channels last',
  ),
  'oblong images': (
    {'train_images': np.zeros((12, 12, 9), np.uint8)},
    r'shape \[12, 12, 9\]; give .* square',
  ),
  'no images': (
    {'test_images': np.zeros((0, 12, 12), np.uint8)},
    r'test_images has shape \[0, 12, 12\]; give one or more',
  ),
  'sizes differ': (
    {'test_images': np.zeros((6, 9, 9), np.uint8)},
    r'test_images has images of \[9, 9\], and train_images of \[12, 12\]',
  ),
  'several labels': (
    {'train_labels': np.zeros((12, 14), np.uint8)},
    r'train_labels has shape \[12, 14\] for 12 images; .*not supported',
  ),
  'fewer labels': (
    {'val_labels': np.zeros(2, np.uint8)},
    r'val_labels has shape \[2\] for 3 images; give each image one class',
  ),
  'float labels': (
    {'val_labels': np.zeros(3)},
    r'val_labels has dtype float64; give .* integer',
  ),
  'negative label': (
    {'train_labels': np.arange(-1, 11)},
    r'train_labels: 1 of 12 labels are no class from 0 to 10: -1 \(1 times\); '
    'by train_labels there are 11 classes, which count from 0',
  ),
  'label too large': (
    {'test_labels': np.arange(6)},
    r'test_labels: 3 of 6 labels are no class from 0 to 2: 3 \(1 times\), 4 '
    r'\(1 times\), 5 \(1 times\); by train_labels there are 3 classes',
  ),
  'label without a name': (
    {'class_names': np.array(['cat', 'dog'])},
    r'train_labels: 4 of 12 labels are no class from 0 to 1: 2 \(4 times\); by '
    'class_names there are 2 classes',
  ),
  'class without an image': (
    {'train_labels': np.repeat([0, 1, 3], 4)},
    r'class 2 of 4 has no training image',
  ),
  'name without an image': (
    {'class_names': np.array(['cat', 'dog', 'emu', 'fox'])},
    r'class 3 of 4 has no training image',
  ),
  'pickled names': (
    {'class_names': np.array(['cat', 'dog', 'emu'], object)},
    r'class_names is an object array, .* np.array\(class_names, dtype=str\)',
  ),
  'pickled images': (
    {'train_images': np.array([None] * 12, object)},
    r'train_images is an object array, .* dtype=np.uint8\)',
  ),
  'bytes as names': (
    {'class_names': np.array([b'cat', b'dog', b'emu'])},
    r'class_names has dtype \|S3 .* dtype=str\)',
  ),
  'one value': (
    {'train_images': np.full((12, 12, 12), 7, np.uint8)},
    'one value only, .*give mean and std',
  ),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_is_no_such_data_set_is_one_line_before_compiling(
  tmp_path, monkeypatch, case
):
  changes, message = REFUSED[case]
  monkeypatch.setattr(build, 'trace', None)
  name = write(tmp_path / 'x.npz', **arrays(**changes))
  with pytest.raises(errors.UsageError, match=message) as raised:
    small(name, tmp_path / 'run')
  assert '\n' not in str(raised.value)
  assert str(tmp_path / 'x.npz') in str(raised.value)
  assert not (tmp_path / 'run').exists()


def no_zip(path):
  path.write_bytes(b'no zip')


def one_array(path):
  with path.open('wb') as file:
    np.save(file, np.zeros(3))


def cut_off(path):
  np.savez(path, **arrays())
  path.write_bytes(path.read_bytes()[:-100])


def flipped_pixel(save, path):
  save(path, **arrays())
  content = bytearray(path.read_bytes())
  content[content.index(b'train_images.npy') + 400] ^= 255
  path.write_bytes(content)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda path: None, 'cannot read .*: No such file'),
    (lambda path: path.mkdir(), 'cannot read .*: Is a directory'),
    (no_zip, 'is no npz file, or a damaged one'),
    (one_array, 'is no npz file, or a damaged one'),
    (cut_off, 'is no npz file, or a damaged one'),
    (functools.partial(flipped_pixel, np.savez), 'damaged one .*CRC'),
    (functools.partial(flipped_pixel, np.savez_compressed), 'a damaged one'),
  ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, make, message):
  make(tmp_path / 'x.npz')
  with pytest.raises(errors.UsageError, match=message) as raised:
    opened(f'npz:{tmp_path / "x.npz"}')
  assert '\n' not in str(raised.value)


def test_nothing_is_unpickled(tmp_path):
  class Trap:
    def __reduce__(self):
      return (tmp_path.joinpath('sprung').touch, ())

  trap = np.array([Trap()], object)
  name = write(tmp_path / 'x.npz', **arrays(class_names=trap))
  assert not (tmp_path / 'sprung').exists()
  with pytest.raises(errors.UsageError, match='never unpickled'):
    opened(name)
  assert not (tmp_path / 'sprung').exists()


def test_other_contents_under_one_name_are_another_data_set(tmp_path):
  config, path = config_lib.digits(), tmp_path / 'x.npz'

  def place(save=np.savez, **changes):
    info = opened(write(path, save, **arrays(**changes))).info
    return teacher.cache_folder(config, info, 'teacher').path, info

  labels = arrays()['train_labels']
  first, info = place()
  assert place(np.savez_compressed)[0] == first
  other, changed = place(train_labels=labels[::-1])
  assert other != first
  assert changed._replace(fingerprint=info.fingerprint) == info
  folder = run_dir.Folder(tmp_path / 'run')
  folder.claim(config_lib.plain(config), info.identity())
  with pytest.raises(errors.UsageError, match=r'data_facts\.fingerprint'):
    folder.claim(config_lib.plain(config), changed.identity())


def test_data_sets_without_a_fingerprint_are_identified_as_before():
  assert 'fingerprint' not in digits.INFO.identity()
  assert digits.INFO.identity() == {
    key: value
    for key, value in digits.INFO._asdict().items()
    if key not in ('fingerprint', 'task', 'place')
  }


def logged(folder):
  """What a run wrote of training and evaluation, without its times."""
  return [
    {k: v for k, v in r.items() if k.startswith(('train/', 'test/'))}
    for r in run_dir.Records(run_dir.Folder(folder)).read()
  ]


FIGURES = ('top1', 'top5', 'best_on_test', 'best_on_test_epoch', 'steps')


def test_the_digits_in_a_file_train_to_the_bit_as_the_embedded_ones(tmp_path):
  name = write(tmp_path / 'digits.npz', **digit_arrays())
  want, got = (
    small(name, tmp_path / place)
    for name, place in (('digits', 'embedded'), (name, 'file'))
  )
  assert [got[key] for key in FIGURES] == [want[key] for key in FIGURES]
  want, got = (logged(tmp_path / place) for place in ('embedded', 'file'))
  assert len(want) == 2
  assert {'train/total', 'train/grad_norm', 'test/loss'} <= set(want[1])
  assert got == want


def test_a_run_chooses_on_the_files_val_split_and_its_export_is_measured(
  tmp_path, capsys
):
  made = digit_arrays()
  made |= {
    f'val_{key}': made[f'test_{key}'][:50] for key in ('images', 'labels')
  }
  made['test_labels'] = made['test_labels'][:, None]
  name = write(tmp_path / 'digits.npz', **made)
  result = small(name, tmp_path / 'run')
  assert 'best_on_val' in result
  assert 'best_on_test' not in result
  records = run_dir.Records(run_dir.Folder(tmp_path / 'run')).read()
  assert [r['val/images'] for r in records if 'val/top1' in r] == [50, 50]
  assert len([r for r in records if 'test/top1' in r]) == 1
  with artifact.beside(tmp_path / 'out') as part:
    artifact.write(restore.load(tmp_path / 'run'), part)
  export, file = str(tmp_path / 'out'), tmp_path / 'figures.json'
  assert evaluate.main([export, f'--data={name}', f'--json={file}']) == 0
  figures = json.loads(file.read_text())
  assert figures['correct'] == round(result['top1'] * 3.6)
  assert evaluate.main([export, '--split=val', f'--json={file}']) == 0
  assert json.loads(file.read_text())['images'] == 50
  capsys.readouterr()
  other = write(tmp_path / 'other.npz', **arrays())
  assert evaluate.main([export, f'--data={other}']) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert 'has 3 classes, and the network 10' in error


def test_a_teacher_may_be_expected_on_a_val_split_only_where_there_is_one(
  tmp_path,
):
  expected = {'teacher': {'expected_on': 'val'}}
  made = digit_arrays()
  name = write(tmp_path / 'x.npz', **made)
  message = r"expected_on='val': npz:.* has no split 'val'"
  with pytest.raises(errors.UsageError, match=message):
    small(name, tmp_path / 'run', **expected)


def test_a_file_in_a_bucket_is_read(tmp_path, monkeypatch):
  fsspec = pytest.importorskip('fsspec')
  pytest.importorskip('gcsfs', reason='files in buckets need gcsfs')
  write(tmp_path / 'x.npz', **arrays())
  with bucket.Server() as server:
    monkeypatch.setenv('STORAGE_EMULATOR_HOST', server.url)
    monkeypatch.setenv('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
    fsspec.filesystem('gcs').clear_instance_cache()  # of an older server
    content = (tmp_path / 'x.npz').read_bytes()
    server.objects['bucket', 'x.npz'] = (1, content)
    there = opened('npz:gs://bucket/x.npz')
    # A listing that is kept would hide what others write into a run's folder.
    assert not fsspec.config.conf['gcs']['use_listings_cache']
    here = opened(f'npz:{tmp_path / "x.npz"}')
    assert there.info.fingerprint == here.info.fingerprint
    assert there.info.identity() | {'name': ''} == here.info.identity() | {
      'name': ''
    }
    with pytest.raises(errors.UsageError, match='cannot read gs://bucket/y'):
      opened('npz:gs://bucket/y.npz')
