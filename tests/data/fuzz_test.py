"""Damaged files and odd folders: one line or the right pixels, nothing silent.

The seeds are fixed and the sizes bounded.
"""

import io
import re
import warnings

from etils import epath
import numpy as np
from PIL import Image
import pytest

from kd_jax import errors
from kd_jax.data import decode
from kd_jax.data.sets import folder, npz, tree
from tests.data import npz_test, pixels_test

ROUNDS = 20  # damaged copies of an image
NPZ_ROUNDS = 80


def damaged(content, rng):
  """A copy with a few bytes changed, cut off, left out or doubled."""
  changed = bytearray(content)
  kind = rng.integers(4)
  at = int(rng.integers(len(changed)))
  if kind == 0:
    # Sizes and kinds stand at the beginning.
    for place in rng.integers(0, min(len(changed), 80), rng.integers(1, 4)):
      changed[place] = rng.integers(256)
  elif kind == 1:
    changed[at] ^= 1 << int(rng.integers(8))
  elif kind == 2:
    del changed[at:]
  else:
    changed[at:at] = changed[at : at + int(rng.integers(1, 40))]
  return bytes(changed)


def outcome(read):
  """What a function returns, and the message with which it refuses."""
  try:
    return read(), ''
  except errors.UsageError as error:
    return None, str(error)


def files():
  """Files of all formats and modes by name."""
  found = {name: case[0] for name, case in pixels_test.MODES.items()}
  found |= {name: case[0] for name, case in pixels_test.DEEP.items()}
  found |= pixels_test.UNKNOWN
  for file_format in ('JPEG', 'GIF', 'WEBP', 'JPEG2000'):
    file = io.BytesIO()
    Image.fromarray(pixels_test.COLOURS[..., :3].copy()).save(file, file_format)
    found[file_format] = file.getvalue()
  return found


FILES = files()


@pytest.mark.parametrize('name', FILES)
def test_a_damaged_image_is_read_as_predict_reads_it_or_is_one_line(
  name, monkeypatch
):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 2**22)  # keeps it small
  rng = np.random.default_rng([1, *name.encode()])
  for _ in range(ROUNDS):
    content = damaged(FILES[name], rng)
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # Pillow's, of what it can repair
      got, line = outcome(lambda c=content: decode.decode(c, '/place/x.png'))
      if got is None:
        assert '/place/x.png' in line
        assert '\n' not in line
        continue
      assert got.dtype == np.uint8
      assert got.ndim == 3
      assert got.shape[2] == 3
      if content.startswith(b'\xff\xd8'):
        continue  # two decoders may repair a damaged JPEG in two ways
      np.testing.assert_array_equal(got, pixels_test.alone(content))


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_a_damaged_npz_file_is_the_same_data_or_is_one_line(tmp_path, save):
  path, made = tmp_path / 'x.npz', npz_test.arrays()
  save(path, **made)
  whole, rng = path.read_bytes(), np.random.default_rng(2)
  refused = 0

  def arrays():
    source = npz.open_npz(f'npz:{path}')
    return {split: source.arrays(split) for split in ('train', 'test')}

  for _ in range(NPZ_ROUNDS):
    path.write_bytes(damaged(whole, rng))
    read, line = outcome(arrays)
    if read is None:
      assert str(path) in line
      assert '\n' not in line
      refused += 1
      continue
    for split, found in read.items():
      want = made[f'{split}_images'][..., None].repeat(3, -1)
      np.testing.assert_array_equal(found.image, want)
      assert found.labels.tolist() == made[f'{split}_labels'][:, 0].tolist()
  assert refused > 20


SUFFIXES = ('.png', '.PNG', '.jpg', '', '.data', '.tar.gz')
LITTER = ('.DS_Store', '._1.png', 'Thumbs.db', '.ipynb_checkpoints/1.png')
LITTER += ('@eaDir/1.png', '__MACOSX/a/._1.png')


def layout(root, rng):
  """Writes a random folder; returns pixels by path, and what else is there."""
  images, other, litter = {}, set(), set()
  for split in rng.permutation(['train', 'val', 'test'])[: rng.integers(2, 4)]:
    for name in ('ant', 'bee'):
      for i in range(rng.integers(1, 4)):
        deep = '/'.join(rng.choice(['a', 'b.png', 'c d'], rng.integers(0, 3)))
        place = root / split / name / deep
        place.mkdir(parents=True, exist_ok=True)
        path = place / f'{i}{rng.choice(SUFFIXES)}'
        grey = rng.integers(0, 65536, (6, 6)).astype(np.uint16)
        content = pixels_test.png(grey.astype('>u2')[..., None], 0)
        path.write_bytes(content)
        images[path] = pixels_test.rounded(grey, 65535)
      for i in range(rng.integers(0, 3)):
        path = root / split / name / f'note{i}{rng.choice(["", ".txt"])}'
        path.write_text('no image')
        other.add(path)
      for found in rng.choice(LITTER, rng.integers(0, 3)):
        path = root / split / name / found
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        litter.add(root / split / name / found.partition('/')[0])
    if rng.integers(2):
      (root / split / 'loose.png').write_bytes(content)
      other.add(root / split / 'loose.png')
  return images, other, litter


@pytest.mark.parametrize('seed', range(25))
def test_all_of_a_folder_is_read_as_numpy_reads_it_or_counted(tmp_path, seed):
  images, other, litter = layout(tmp_path, np.random.default_rng(seed))
  if not (tmp_path / 'train').exists():
    with pytest.raises(errors.UsageError, match=r'there is no .*train'):
      folder.open_folder(f'folder:{tmp_path}')
    return
  source = folder.open_folder(f'folder:{tmp_path}')
  names = ['train', 'test'] + (['val'] if source.info.num_val else [])
  seen = set()
  for name in names:
    split, arrays = source.split(name), source.arrays(name)
    assert len(split) == getattr(source.info, f'num_{name}')
    for i, path in enumerate(split.paths):
      np.testing.assert_array_equal(arrays.image[i], images[path])
      inside = path.relative_to(tmp_path).parts
      assert source.info.class_names[arrays.labels[i]] == inside[1]
      seen.add(path)
  assert seen == images.keys()
  counts = re.findall(r'(\d+) [a-z ]+ \(', ' '.join(source.notes[1:]))
  assert sum(map(int, counts)) == len(other) + len(litter)
  place = epath.Path(tmp_path)
  alone = set(tree.images(place, tree.LeftOut(place)))
  assert alone == seen | {path for path in other if path.name == 'loose.png'}
