"""Files that a full disk and a loss of power leave whole, or do not leave.

A file is written beside its place, synced and renamed, and its folder is synced
after it: whoever finds the name finds the content.
"""

import contextlib
import errno
import os
import pathlib

from etils import epath

from kd_jax import errors
from kd_jax.runtime import gcs

# The errors of a storage that is full, over its quota or read-only.
STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class Refused(errors.RunError):
  """A storage is full or read-only; what was there before is whole."""


def write(path: os.PathLike[str], content: bytes) -> None:
  """Writes a file that is there as a whole, or as it was before.

  Args:
    path: The file, on a disk.
    content: What it holds.

  Raises:
    OSError: It cannot be written.
  """
  final = pathlib.Path(path)
  part = final.with_name(f'{final.name}.part')
  try:
    with part.open('wb', buffering=0) as file:
      _write_all(file.fileno(), content)
      os.fsync(file.fileno())
  except OSError:
    part.unlink(missing_ok=True)  # it may keep what little room there is
    raise
  part.replace(final)
  _sync(final.parent)


def append(path: os.PathLike[str], content: bytes) -> None:
  """Appends to a file, or leaves it as it was before.

  Args:
    path: The file, on a disk.
    content: What is added.

  Raises:
    OSError: It cannot be written.
  """
  with open(path, 'ab', buffering=0) as file:
    size = os.fstat(file.fileno()).st_size
    try:
      _write_all(file.fileno(), content)
    except OSError:
      file.truncate(size)
      raise


def sync(folder: os.PathLike[str]) -> None:
  """Waits until all that a folder holds would survive a loss of power.

  Args:
    folder: The folder; one that is not there, or in a bucket, has nothing to
      wait for.
  """
  if gcs.is_bucket(folder):
    return
  for path in sorted(pathlib.Path(folder).rglob('*'), reverse=True):
    _sync(path)
  _sync(pathlib.Path(folder))
  _sync(pathlib.Path(folder).parent)


def refused(path: os.PathLike[str], error: OSError) -> Exception:
  """Returns the one line about a file that could not be written.

  Args:
    path: The file.
    error: Why.
  """
  why = f'cannot write {os.fspath(path)}: {error.strerror or error}'
  if error.errno not in STORAGE:
    return errors.UsageError(why)
  return Refused(
    f'{why}; nothing that was saved is lost: free or unlock the storage, and '
    'start the same command again: it goes on from the last checkpoint'
  )


def set_aside(path: os.PathLike[str]) -> epath.Path:
  """Renames a file or folder that is cut off; it is never deleted.

  Args:
    path: The file or folder, on a disk or in a bucket.

  Returns:
    The new path: NAME.cut, or NAME.cut2 and so on where that is taken.
  """
  old, count = epath.Path(path), 1
  new = old.with_name(f'{old.name}.cut')
  while new.exists():
    count += 1
    new = old.with_name(f'{old.name}.cut{count}')
  old.rename(new)
  return new


def _write_all(number: int, content: bytes) -> None:
  left = memoryview(content)
  while left:
    left = left[os.write(number, left) :]


def _sync(path: pathlib.Path) -> None:
  # Some file systems cannot sync a folder; what is there is there.
  with contextlib.suppress(OSError):
    number = os.open(path, os.O_RDONLY)
    try:
      os.fsync(number)
    finally:
      os.close(number)
