"""Archives: from a path, from the download folder, or by download.

Their members are read into memory, never unpacked to a folder, and only as far
as what is published reaches.
"""

from collections.abc import Callable, Mapping
import gzip
import tarfile
from typing import Any
import zipfile

from etils import epath

from kd_jax import errors
from kd_jax.runtime import downloads, screen

_GZIP = b'\x1f\x8b'
_MEMBERS = 1000  # the most of a tar archive
_CURE = 'Fetch it again, or give it by archive=... with any_checksum=True'


def obtain(
  archive: downloads.Published,
  folder: epath.Path,
  *,
  also: tuple[downloads.Published, ...] = (),
  path: str = '',
  any_checksum: bool = False,
  say: Callable[[str], None] = screen.show,
) -> epath.Path:
  """Returns the path of an archive, which is downloaded if it is missing.

  Args:
    archive: The published archive.
    folder: The folder of downloads.
    also: Other published archives of the same data, which `path` may be.
    path: The path of the user's own copy; '' takes the file in `folder`.
    any_checksum: Whether to accept an existing file whatever its checksum.
    say: Called with messages about the progress of a download.

  Raises:
    UsageError: The file at `path` does not exist, the download fails, or the
      checksum is not the published one.
  """
  if path:
    location = epath.Path(path).expanduser()
    if not location.is_file():
      raise errors.ArgumentError(
        f'archive={path!r} is no file; it should be {archive}'
      )
  else:
    location = folder / archive.url.rsplit('/', 1)[1]
    if not location.exists():
      cure = f'Put the file at {location}, or give its path by archive=...'
      downloads.fetch(archive, location, cure, say)
      return location
  if not any_checksum:
    length = location.stat().length
    expected = (each for each in also if each.size == length)
    downloads.verify(next(expected, archive), location, _CURE)
  return location


class _Bounded:
  """A file to be read up to so many bytes."""

  def __init__(self, file: Any, most: int):
    self._file, self._most, self._left = file, most, most

  def read(self, count: int) -> bytes:
    """Returns the next bytes.

    Raises:
      ValueError: There are more than so many.
    """
    content = self._file.read(min(count, self._left + 1))
    self._left -= len(content)
    if self._left < 0:
      raise ValueError(f'it unpacks to more than {self._most} bytes')
    return content


def tar_members(
  path: epath.Path, wanted: Mapping[str, int], most: int
) -> dict[str, bytes]:
  """Returns members of a tar archive, which may be compressed by gzip.

  Args:
    path: The archive.
    wanted: The most bytes of each member, by name without folders.
    most: The most bytes of the whole archive, unpacked.

  Raises:
    ValueError: A member is larger, twice there, no plain file, or leads out of
      the archive's folder; or the whole is larger.
    Exception: It is damaged: TarError, EOFError, OSError or zlib.error.
  """
  contents: dict[str, bytes] = {}
  with path.open('rb') as file:
    head = file.read(len(_GZIP))
    file.seek(0)
    unpacked = gzip.GzipFile(fileobj=file) if head == _GZIP else file
    bounded = _Bounded(unpacked, most)
    with tarfile.open(fileobj=bounded, mode='r|') as tar:  # type: ignore[call-overload]
      for number, member in enumerate(tar):
        folders = member.name.split('/')
        name = folders[-1]
        if number == _MEMBERS:
          raise ValueError(f'it has more than {_MEMBERS} members')
        if '..' in folders or member.name.startswith('/'):
          raise ValueError(f'{member.name!r} leads out of its folder')
        if name not in wanted:
          continue
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
          raise ValueError(f'{name} is no plain file')
        if name in contents:
          raise ValueError(f'{name} is there twice')
        if member.size > wanted[name]:
          raise ValueError(
            f'{name} has {member.size} bytes, and {wanted[name]} are the most'
          )
        contents[name] = tar.extractfile(member).read()  # type: ignore[union-attr]
  return contents


def zip_member(archive: zipfile.ZipFile, name: str, most: int) -> bytes:
  """Returns a member of a zip archive.

  Args:
    archive: The archive.
    name: The member's name.
    most: The most bytes of it.

  Raises:
    ValueError: It is larger.
    Exception: It is damaged: BadZipFile, KeyError, EOFError, OSError,
      RuntimeError or zlib.error.
  """
  with archive.open(name) as file:
    content = file.read(most + 1)
  if len(content) > most:
    raise ValueError(f'{name} has more than {most} bytes')
  return content
