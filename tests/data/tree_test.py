"""What is read of a folder of images, what is left out, and what is said."""

import io
import os
import shutil
import unicodedata

from etils import epath
import numpy as np
from PIL import Image
import pytest

from kd_jax import data, errors
from kd_jax.cli import predict
from kd_jax.data import decode
from kd_jax.data.sets import tree
from kd_jax.distill import build
from kd_jax.training import report
from tests.cli import train_test


def image(seed=0, file_format='PNG'):
  pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3))
  file = io.BytesIO()
  Image.fromarray(pixels.astype(np.uint8)).save(file, file_format)
  return file.getvalue()


def fill(root, splits, classes=('ant', 'bee')):
  for split, count in splits.items():
    for name in classes:
      folder = root / split / name
      folder.mkdir(parents=True)
      for i in range(count):
        (folder / f'{i}.png').write_bytes(image(i))
  return root


@pytest.fixture
def root(tmp_path):
  return fill(tmp_path / 'photos', {'train': 4, 'val': 2})


def opened(root, **more):
  data.open_source.cache_clear()
  return data.open_source(f'folder:{root}', **more)


def test_val_is_for_choosing_where_there_is_a_test(root):
  fill(root, {'test': 1})
  source = opened(root)
  info = source.info
  assert (info.num_train, info.num_val, info.num_test) == (8, 4, 2)
  for split, count in (('train', 8), ('val', 4), ('test', 2)):
    assert len(source.split(split)) == count
    assert {p.parent.parent.name for p in source.split(split).paths} == {split}
  assert source.notes == (
    'train/ (8 images) is trained on, val/ (4 images) for choosing, '
    'test/ (2 images) the result',
  )


@pytest.mark.parametrize(('held', 'other'), [('val', 'test'), ('test', 'val')])
def test_a_single_held_out_folder_is_the_test_and_said_to_be(root, held, other):
  if held == 'test':
    (root / 'val').rename(root / 'test')
  source = opened(root)
  assert (source.info.num_val, source.info.num_test) == (0, 4)
  assert len(source.split('test')) == 4
  assert source.notes == (
    f'train/ (8 images) is trained on, and {held}/ (4 images) is both for '
    f'choosing and the result, called test: there is no {other}/ with classes',
  )


def test_a_test_folder_without_classes_is_left_out(root):
  (root / 'test').mkdir()
  (root / 'test/0.png').write_bytes(image())
  source = opened(root)
  assert (source.info.num_val, source.info.num_test) == (0, 4)
  assert 'left out: 1 without class folders (test)' in source.notes[1]


def test_a_run_says_which_folder_is_which(root):
  fill(root, {'test': 1})
  (root / 'train/ant/notes.txt').write_text('no image')
  config = train_test.configuration('ce').get_config('digits')
  config.student.name, config.mesh.data = 'resnet8', 1
  config.student.args.widths = (4, 4, 8, 16)
  config.data.name, config.data.train_size = f'folder:{root}', 0
  config.batch_size = 4
  data.open_source.cache_clear()
  parts = build.build(config)
  place = type('Folder', (), {'path': 'there'})
  lines = report.opening(config, parts, place).splitlines()
  assert ': 8 training, 4 validation and 2 test images' in lines[0]
  assert lines[1].strip() == parts.source.notes[0]
  assert (
    lines[2].strip() == 'left out: 1 of no image format (train/ant/notes.txt)'
  )


def test_images_are_known_by_content_and_found_in_sub_folders(root):
  ant = root / 'train/ant'
  (ant / 'a/b').mkdir(parents=True)
  (ant / 'x.png').mkdir()
  kinds = {
    'a.tif': 'TIFF', 'b.jfif': 'JPEG', 'c.jp2': 'JPEG2000', 'D.PNG': 'PNG',
    'without': 'PNG', 'e.photo': 'JPEG', 'a/b/f.TIFF': 'TIFF',
    'a/g.webp': 'WEBP', 'x.png/h': 'BMP',
  }  # fmt: skip
  for name, file_format in kinds.items():
    (ant / name).write_bytes(image(9, file_format))
  source = opened(root)
  paths = [str(p.relative_to(ant)) for p in source.split('train').paths[:13]]
  assert sorted(paths) == sorted([*kinds, *(f'{i}.png' for i in range(4))])
  assert source.info.num_train == 17
  assert len(source.arrays('train')) == 17
  assert len(source.notes) == 1
  found = predict.files(str(ant), pytest.fail)
  assert [str(p.relative_to(ant)) for p in found] == paths


def test_litter_is_neither_class_nor_image(root):
  want = opened(root)
  facts, paths = want.info, want.split('train').paths
  for split in ('train', 'val'):
    for folder in ('.ipynb_checkpoints', '@eaDir', '__MACOSX', '.git'):
      for place in (root / split, root / split / 'ant'):
        (place / folder).mkdir()
        (place / folder / 'x.png').write_bytes(image())
    for name in ('._0.png', 'Thumbs.db', '.DS_Store', 'desktop.ini'):
      (root / split / name).write_bytes(image())
      (root / split / 'ant' / name).write_bytes(image())
  got = opened(root)
  assert got.info == facts
  assert got.split('train').paths == paths
  assert got.notes[1].startswith('left out: 32 hidden or litter (train/')
  lines = []
  found = predict.files(str(root / 'train/ant'), lines.append)
  assert [p.name for p in found] == [f'{i}.png' for i in range(4)]
  assert lines[0].endswith(
    'left out: 8 hidden or litter (.DS_Store, ._0.png, .git, ...)'
  )


def test_what_is_left_out_is_counted_by_its_reason(root):
  (root / 'train/ant/notes.txt').write_text('BM, but no image')
  (root / 'val/bee/empty').write_bytes(b'')
  (root / 'train/0.png').write_bytes(image())
  (root / 'extra').mkdir()
  (root / 'train/ant/up').symlink_to(root / 'train')
  os.mkfifo(root / 'train/ant/pipe.png')
  source = opened(root)
  # The link to train leads to train/bee once more, and then no further.
  said = source.notes[1]
  for part in (
    '2 of no image format (train/ant/notes.txt, val/bee/empty)',
    'train/0.png', '1 beside train, val and test (extra)',
    'neither file nor folder (train/ant/pipe.png',
    'linking to a folder above (train/ant/up/ant',
  ):  # fmt: skip
    assert part in said, said


@pytest.mark.parametrize('form', ['NFC', 'NFD'])
def test_a_name_composed_and_decomposed_is_one_class(root, form):
  names = {f: unicodedata.normalize(f, 'café') for f in ('NFC', 'NFD')}
  assert names['NFC'] != names['NFD']
  other = {'NFC': 'NFD', 'NFD': 'NFC'}[form]
  (root / 'train/ant').rename(root / 'train' / names[form])
  (root / 'val/ant').rename(root / 'val' / names[other])
  source = opened(root)
  assert source.info.class_names == ('bee', names[form])
  assert source.split('test').labels.tolist() == [0, 0, 1, 1]
  shutil.copytree(root / 'train' / names[form], root / 'train' / names[other])
  both = opened(root)
  assert both.info.class_names == ('bee', names['NFC'])
  assert both.split('train').labels.tolist() == [0] * 4 + [1] * 8


def spoiled(root, name):
  path = root / 'train/ant' / name
  if name == 'link.png':
    path.symlink_to('nowhere.png')
  elif name == 'loop.png':
    path.symlink_to('loop.png')
  elif name == 'huge.png':
    Image.new('1', (20000, 10000)).save(path)
  elif name == 'cut.png':
    path.write_bytes(image()[:60])
  return path


@pytest.mark.parametrize(
  'name', ['link.png', 'loop.png', 'huge.png', 'cut.png']
)
def test_one_odd_file_is_one_line_with_its_path(root, name):
  path = spoiled(root, name)
  with pytest.raises(errors.UsageError) as caught:
    opened(root)
  assert str(path) in str(caught.value)
  assert '\n' not in str(caught.value)
  with pytest.raises(errors.UsageError) as caught:  # as `predict` reads it
    decode.read(path)
  assert str(path) in str(caught.value)


def test_what_may_not_be_read_is_one_line_with_its_path(root, monkeypatch):
  source = opened(root)
  path = source.split('train').paths[0]

  def refuse(*_, **__):
    raise PermissionError(13, 'Permission denied')

  with monkeypatch.context() as patched:
    patched.setattr(type(path), 'read_bytes', refuse)
    match = rf'^cannot read image {path}: Permission denied; .*remove it$'
    with pytest.raises(errors.UsageError, match=match):
      source.split('train').read(0)
  with monkeypatch.context() as patched:
    patched.setattr(os, 'scandir', refuse)
    match = rf'^cannot read {root}: Permission denied; make it readable'
    with pytest.raises(errors.UsageError, match=match):
      opened(root)
  (root / 'train/ant/0.png').unlink()
  with pytest.raises(errors.UsageError, match='No such file'):
    source.split('train').read(0)


def test_no_file_with_a_known_ending_is_opened_to_find_it(
  tmp_path, monkeypatch
):
  for i in range(30):
    (tmp_path / f'{i:02d}.JPG').write_bytes(b'')

  def refuse(*_, **__):
    raise AssertionError

  monkeypatch.setattr(epath.Path, 'open', refuse)
  monkeypatch.setattr('builtins.open', refuse)
  left_out = tree.LeftOut(epath.Path(tmp_path))
  assert len(tree.images(epath.Path(tmp_path), left_out)) == 30


def test_an_empty_class_tells_what_it_holds(root):
  shutil.rmtree(root / 'val/ant')
  (root / 'val/ant').mkdir()
  (root / 'val/ant/0.heic').write_bytes(b'\0\0\0\x18ftypheic')
  match = r'ant holds no image .*out: 1 of no image format \(val/ant/0\.heic'
  with pytest.raises(errors.UsageError, match=match):
    opened(root)
