import errno
import os

import pytest

from kd_jax import errors
from kd_jax.runtime import durable


def full(monkeypatch, after):
  """Makes the disk full after so many bytes."""
  write, left = os.write, [after]

  def limited(number, content):
    if not left[0]:
      raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    count = write(number, content[: left[0]])
    left[0] -= count
    return count

  monkeypatch.setattr(os, 'write', limited)


@pytest.mark.parametrize('after', [0, 1, 9])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
  tmp_path, monkeypatch, after
):
  path = tmp_path / 'a.json'
  durable.write(path, b'old')
  full(monkeypatch, after)
  with pytest.raises(OSError, match='No space left'):
    durable.write(path, b'new content')
  assert path.read_bytes() == b'old'
  assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('after', [0, 1, 9])
def test_an_append_that_fails_leaves_the_file_as_it_was(
  tmp_path, monkeypatch, after
):
  path = tmp_path / 'a.jsonl'
  durable.append(path, b'first\n')
  full(monkeypatch, after)
  with pytest.raises(OSError, match='No space left'):
    durable.append(path, b'second line\n')
  assert path.read_bytes() == b'first\n'


def test_a_write_of_the_kernel_that_is_short_is_completed(
  tmp_path, monkeypatch
):
  write = os.write
  monkeypatch.setattr(os, 'write', lambda n, text: write(n, text[:3]))
  durable.write(tmp_path / 'a', b'0123456789')
  durable.append(tmp_path / 'a', b'0123456789')
  assert (tmp_path / 'a').read_bytes() == b'0123456789' * 2


def test_everything_in_a_folder_is_synced_and_its_name_last(
  tmp_path, monkeypatch
):
  (tmp_path / 'run/deep').mkdir(parents=True)
  (tmp_path / 'run/deep/file').write_text('x')
  synced = []
  monkeypatch.setattr(
    os, 'fsync', lambda n: synced.append(os.readlink(f'/proc/self/fd/{n}'))
  )
  durable.sync(tmp_path / 'run')
  home = os.path.realpath(tmp_path)
  names = ['run/deep/file', 'run/deep', 'run']
  assert synced == [*(f'{home}/{name}' for name in names), home]


def test_what_is_set_aside_twice_is_there_twice(tmp_path):
  path = tmp_path / 'a.json'
  for text in ('first', 'second'):
    path.write_text(text)
    durable.set_aside(path)
  assert (tmp_path / 'a.json.cut').read_text() == 'first'
  assert (tmp_path / 'a.json.cut2').read_text() == 'second'


@pytest.mark.parametrize(
  ('number', 'kind'),
  [
    (errno.ENOSPC, errors.RunError),
    (errno.EROFS, errors.RunError),
    (errno.EACCES, errors.UsageError),
  ],
)
def test_a_full_disk_is_a_fault_and_a_forbidden_folder_wrong_usage(
  number, kind
):
  error = durable.refused('a.json', OSError(number, os.strerror(number)))
  assert isinstance(error, kind)
  assert 'cannot write a.json: ' in str(error)
