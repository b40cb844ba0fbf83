"""Getting an archive: from a path, from the download folder, or by download."""

from collections.abc import Callable
import hashlib
import http.client
import time
from typing import NamedTuple
import urllib.request

from etils import epath

from kd_jax import errors

_TIMEOUT = 5.0  # seconds without an answer
_TRIES = 5
_BLOCK = 1 << 20  # bytes


class Archive(NamedTuple):
  """An archive as its owners publish it.

  Attributes:
    url: where it is published.
    size: bytes.
    algorithm: 'sha256' or 'md5'.
    checksum: hexadecimal.
  """

  url: str
  size: int
  algorithm: str
  checksum: str

  @property
  def name(self) -> str:
    """The file's name."""
    return self.url.rsplit('/', 1)[1]


def obtain(
  archive: Archive,
  folder: epath.Path,
  *,
  path: str = '',
  any_checksum: bool = False,
  say: Callable[[str], None] = print,
) -> epath.Path:
  """The archive's path, downloaded into `folder` if it is not there.

  Args:
    archive: which.
    folder: of downloads.
    path: where the user has it already; '' looks into `folder`.
    any_checksum: take the user's file whatever its checksum.
    say: tells of progress.

  Raises:
    UsageError: where it is missing and cannot be had, or is another file.
  """
  if path:
    found = epath.Path(path).expanduser()
    if not found.is_file():
      raise errors.UsageError(
        f'config.data.archive={path!r} is no file; it should be '
        f'{_what(archive)}'
      )
    if not any_checksum:
      verify(archive, found)
    return found
  found = folder / archive.name
  if not found.exists():
    _download(archive, found, say)
  elif not any_checksum:
    verify(archive, found)
  return found


def verify(archive: Archive, path: epath.Path) -> None:
  """Raises UsageError where the file is not the published one."""
  digest = hashlib.new(archive.algorithm)
  with path.open('rb') as file:
    while block := file.read(_BLOCK):
      digest.update(block)
  if digest.hexdigest() != archive.checksum:
    size = path.stat().length
    raise errors.UsageError(
      f'{path} ({size} bytes, {archive.algorithm} {digest.hexdigest()}) is not '
      f'{_what(archive)}; it is truncated or another file. Fetch it again, or '
      'give it by config.data.archive with config.data.any_checksum=True'
    )


def _what(archive: Archive) -> str:
  return (
    f'{archive.name} from {archive.url} ({archive.size} bytes, '
    f'{archive.algorithm} {archive.checksum})'
  )


def _download(
  archive: Archive, path: epath.Path, say: Callable[[str], None]
) -> None:
  """Downloads into a .part file that a later try goes on with."""
  path.parent.mkdir(parents=True, exist_ok=True)
  part = path.with_name(path.name + '.part')
  say(f'downloading {archive.url} ({archive.size / 1e6:.0f} MB)')
  for _ in range(_TRIES):
    done = _length(part)
    try:
      _continue(archive, part, done, say)
    except (OSError, http.client.HTTPException) as error:
      if _length(part) <= done:  # nothing came: more tries are in vain
        reason = getattr(error, 'reason', error)
        raise errors.UsageError(
          f'cannot download {_what(archive)}: {reason}. Put the file at '
          f'{path}, or name it by config.data.archive'
        ) from error
    if _length(part) >= archive.size:
      break
  if _length(part) < archive.size:
    raise errors.UsageError(
      f'{archive.url} broke off at {_length(part)} of {archive.size} bytes; '
      'the same command goes on from there'
    )
  try:
    verify(archive, part)
  except errors.UsageError:
    part.unlink()  # so that the next try begins anew
    raise
  part.replace(path)


def _length(path: epath.Path) -> int:
  return path.stat().length if path.exists() else 0


def _continue(
  archive: Archive, part: epath.Path, done: int, say: Callable[[str], None]
) -> None:
  if done >= archive.size:
    return
  headers = {'Range': f'bytes={done}-'} if done else {}
  request = urllib.request.Request(archive.url, headers=headers)
  with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:
    whole = answer.status != 206  # the server does not resume
    shown = time.monotonic()
    with part.open('wb' if whole else 'ab') as file:
      done = 0 if whole else done
      while block := answer.read(_BLOCK):
        file.write(block)
        done += len(block)
        if time.monotonic() - shown > 5:
          shown = time.monotonic()
          say(f'  {done / 1e6:.0f} of {archive.size / 1e6:.0f} MB')
