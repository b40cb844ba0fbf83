"""Digests of files, which are read again only where a file has changed."""

import hashlib
import os

import pytest

from kd_jax import errors
from kd_jax.runtime import digests


def files(folder, **contents):
  made = {}
  for name, text in contents.items():
    made[name] = folder / name
    made[name].write_text(text)
  return made


@pytest.fixture
def settled(monkeypatch):
  """Files count as settled at once, not only after some seconds."""
  monkeypatch.setattr(digests, '_UNSETTLED_NS', -(10**12))


def read(monkeypatch):
  """A list that collects the paths of the files that are read."""
  seen, digest = [], digests._digest
  monkeypatch.setattr(
    digests, '_digest', lambda path: seen.append(path) or digest(path)
  )
  return seen


def test_a_digest_is_that_of_the_bytes(tmp_path):
  large = b'x' * (2**20 + 7)
  made = files(tmp_path, a='abc')
  (tmp_path / 'b').write_bytes(large)
  found = digests.of_files({**made, 'b': tmp_path / 'b'}, 'here')
  assert found == {
    'a': hashlib.sha256(b'abc').hexdigest()[:32],
    'b': hashlib.sha256(large).hexdigest()[:32],
  }


def test_only_what_has_changed_is_read_again(tmp_path, settled, monkeypatch):
  made, home = files(tmp_path, a='1', b='2', c='3'), tmp_path / 'home'
  seen = read(monkeypatch)
  first = digests.of_files(made, 'here', home)
  assert len(seen) == 3
  assert digests.of_files(made, 'here', home) == first
  assert len(seen) == 3
  # Another file with the size and the time of modification of the one before.
  was = made['b'].stat()
  (tmp_path / 'new').write_text('9')
  os.utime(tmp_path / 'new', ns=(was.st_atime_ns, was.st_mtime_ns))
  (tmp_path / 'new').replace(made['b'])
  again = digests.of_files(made, 'here', home)
  assert seen[3:] == [str(made['b'])]
  assert {n for n in made if again[n] != first[n]} == {'b'}


def test_a_file_of_this_moment_is_read_again(tmp_path, monkeypatch):
  made, home = files(tmp_path, a='1'), tmp_path / 'home'
  seen = read(monkeypatch)
  for _ in range(2):
    digests.of_files(made, 'here', home)
  assert len(seen) == 2


def test_what_has_changed_is_named_as_far_as_it_is_remembered(tmp_path):
  old = {f'train/cat/{i}.png': f'train cat {i}' for i in range(6)}
  new = {name: text.replace('cat', 'dog') for name, text in old.items()}
  new['x'] = new.pop('train/cat/5.png')
  was, now = (digests.of_contents(x, tmp_path) for x in (old, new))
  assert was != now
  assert digests.changed(was, now, tmp_path) == (
    'of 6 files and labels 5 other than before (train/cat/0.png, '
    'train/cat/1.png, train/cat/2.png, ...), 1 gone (train/cat/5.png), '
    '1 new (x)'
  )
  assert digests.changed('0' * 16, now, tmp_path) == ''


def test_a_home_that_cannot_be_written_costs_reading_alone(tmp_path):
  made = files(tmp_path, a='1', home='no folder')
  found = digests.of_files({'a': made['a']}, 'here', made['home'])
  assert found['a'] == hashlib.sha256(b'1').hexdigest()[:32]


def test_a_file_that_is_gone_is_one_line(tmp_path):
  with pytest.raises(errors.UsageError, match=r'cannot read .*gone: No such'):
    digests.of_files({'gone': tmp_path / 'gone'}, 'here')
