"""The command that labels image files."""

import contextlib
import errno
import io

import jax.numpy as jnp
import numpy as np
from PIL import Image

from kd_jax.cli import predict
from kd_jax.data.sets import digits
from kd_jax.export import artifact
from kd_jax.training import restore
from tests import finished


def pictures(folder, count=5):
  """The first test images as PNG files in two folders, and their pixels."""
  images = digits.read('test').image[:count]
  for i, image in enumerate(images):
    place = folder / ('a' if i < 3 else 'b')
    place.mkdir(exist_ok=True)
    Image.fromarray(image).save(place / f'{i}.png')
  (folder / 'a/notes.txt').write_text('no image')
  return images


def test_folders_and_files_are_labelled_in_order(tmp_path, capsys):
  images = pictures(tmp_path)
  export = finished.places() / 'pics_out'
  found = restore.load(export)
  logits = np.asarray(found.forward(found.weights, images))
  for arguments in (
    [str(tmp_path)],
    [str(tmp_path / 'a'), *(str(tmp_path / f'b/{i}.png') for i in (3, 4))],
    [str(tmp_path), '--batch_size=2'],
  ):
    assert predict.main([str(export), *arguments]) == 0
    rows = [r.split('\t') for r in capsys.readouterr().out.splitlines()]
    assert [row[0][-5:] for row in rows] == [f'{i}.png' for i in range(5)]
    assert [row[1] for row in rows] == [str(k) for k in logits.argmax(-1)]
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    want = 100 * (odds / odds.sum(-1, keepdims=True)).max(-1)
    got = [float(row[2].rstrip('%')) for row in rows]
    np.testing.assert_allclose(got, want, atol=0.01)


def test_an_image_of_another_size_is_scaled_as_evaluation_shows_it(tmp_path):
  large = np.zeros((30, 40, 3), np.uint8)
  large[:, 20:] = 255
  Image.fromarray(large).save(tmp_path / 'large.png')
  found = restore.load(finished.places() / 'kd_out')
  ((_, name, odds),) = predict.label(
    found, predict.files(str(tmp_path / 'large.png')), 4
  )
  assert name in found.facts['class_names']
  assert 0.1 <= odds <= 1


class Left(io.StringIO):
  """Standard output whose reader has left."""

  def write(self, text):
    raise BrokenPipeError(errno.EPIPE, 'Broken pipe')


def test_a_reader_that_leaves_takes_no_masks_along(tmp_path, monkeypatch):
  def forward(weights, images):
    return jnp.zeros((*images.shape[:3], 2), jnp.float32)

  facts = {'task': 'segmentation', 'image_size': 8, 'class_names': ['a', 'b']}
  trained = artifact.Trained({}, forward, facts)
  monkeypatch.setattr(restore, 'load', lambda *_, **__: trained)
  (tmp_path / 'images').mkdir()
  pictures(tmp_path / 'images')
  out = tmp_path / 'masks'
  arguments = ['run', str(tmp_path / 'images'), '--out', str(out)]
  with contextlib.redirect_stdout(Left()):
    assert predict.main([*arguments, '--batch_size=2']) == 0
  assert sorted(p.name for p in out.iterdir()) == [f'{i}.png' for i in range(5)]


def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys):
  pictures(tmp_path)
  (tmp_path / 'empty').mkdir()
  (tmp_path / 'broken.png').write_text('no image')
  (tmp_path / 'linked').mkdir()
  (tmp_path / 'linked/x.png').symlink_to('nowhere.png')
  Image.new('1', (20000, 10000)).save(tmp_path / 'huge.png')
  export = str(finished.places() / 'kd_out')
  for arguments, message in (
    ([export, str(tmp_path / 'missing.png')], 'cannot read image'),
    ([export, str(tmp_path / 'empty')], 'there is no image in'),
    ([export, str(tmp_path / 'broken.png')], 'unreadable image'),
    ([export, str(tmp_path / 'linked')], 'linked/x.png: it is a link to'),
    ([export, str(tmp_path / 'huge.png')], 'huge.png: it has more than'),
    ([str(tmp_path), str(tmp_path / 'a/0.png')], 'neither a finished run'),
    ([export, str(tmp_path), '--batch_size=0'], '--batch_size=0'),
    ([export], 'images'),
  ):
    assert predict.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert message in error
