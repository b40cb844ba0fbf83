"""Downloads of files by URL, which resume after a failure and are verified."""

from collections.abc import Callable
import hashlib
import http.client
import time
from typing import NamedTuple
import urllib.error
import urllib.request

from etils import epath

from kd_jax import errors
from kd_jax.runtime import distributed

_TIMEOUT = 5.0  # seconds without data
_TRIES = 5
_BLOCK = 1 << 20  # bytes
_BEYOND = 416  # HTTP's 'Range Not Satisfiable': the local file is complete


class Published(NamedTuple):
  """A file on the web, with the checksum that its owners publish.

  Attributes:
    url: The file's URL.
    algorithm: The algorithm of the checksum, 'sha256' or 'md5'.
    checksum: The hexadecimal checksum, or its first digits.
    size: The size in bytes; 0 if it is unknown.
  """

  url: str
  algorithm: str
  checksum: str
  size: int = 0

  def __str__(self) -> str:
    """Returns the URL with size and checksum."""
    size = f'{self.size} bytes, ' if self.size else ''
    return f'{self.url} ({size}{self.algorithm} {self.checksum})'


def is_url(path: str) -> bool:
  """Returns whether a path is a URL that `fetch` can download."""
  return path.startswith(('http://', 'https://'))


def verify(wanted: Published, path: epath.Path, cure: str) -> None:
  """Checks a file against its published checksum.

  Args:
    wanted: The published file.
    path: The local file.
    cure: A sentence for the error message: what the user can do.

  Raises:
    UsageError: The checksums differ.
  """
  with path.open('rb') as file:
    actual = hashlib.file_digest(file, wanted.algorithm).hexdigest()
  if not actual.startswith(wanted.checksum.lower()):
    raise errors.UsageError(
      f'{path} ({path.stat().length} bytes, {wanted.algorithm} {actual}) is '
      f'not {wanted}; it is truncated or another file. {cure}'
    )


def fetch(
  wanted: Published, path: epath.Path, cure: str, say: Callable[[str], None]
) -> None:
  """Downloads a file and verifies it.

  The data goes to a .part file, from which a later call resumes.

  Args:
    wanted: The file to download.
    path: The path of the complete file.
    cure: A sentence for the error message: what the user can do if the
      download fails.
    say: Called with lines about the progress.

  Raises:
    UsageError: The file cannot be downloaded or written, or its checksum is
      wrong.
  """
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise errors.UsageError(f'cannot write {path.parent}: {error}') from error
  number = distributed.index() or ''  # processes may share a machine
  part = path.with_name(f'{path.name}.part{number}')
  size = f' ({wanted.size / 1e6:.0f} MB)' if wanted.size else ''
  say(f'downloading {wanted.url}{size}')
  whole = False
  for _ in range(_TRIES):
    done = _length(part)
    try:
      whole = _continue(wanted, part, done, say)
    except (OSError, http.client.HTTPException) as error:
      if _length(part) <= done:  # no data came: a retry would fail too
        reason = getattr(error, 'reason', error)
        raise errors.UsageError(
          f'cannot download {wanted}: {reason}. {cure}'
        ) from error
    if whole:
      break
  if not whole:
    size = f'of {wanted.size} ' if wanted.size else ''
    raise errors.UsageError(
      f'{wanted.url} broke off at {_length(part)} {size}bytes; the same '
      'command goes on from there'
    )
  try:
    verify(wanted, part, cure)
  except errors.UsageError:
    part.unlink()  # so that the next call starts from the first byte
    raise
  part.replace(path)


def _length(path: epath.Path) -> int:
  return path.stat().length if path.exists() else 0


def _continue(
  wanted: Published, part: epath.Path, done: int, say: Callable[[str], None]
) -> bool:
  """Appends to `part`, of `done` bytes; returns whether it is complete."""
  if wanted.size and done >= wanted.size:
    return True
  headers = {'Range': f'bytes={done}-'} if done else {}
  request = urllib.request.Request(wanted.url, headers=headers)
  try:
    response = urllib.request.urlopen(request, timeout=_TIMEOUT)
  except urllib.error.HTTPError as error:
    with error:  # it holds the connection
      if error.code == _BEYOND and done and not wanted.size:
        return True
      raise
  with response:
    resumed = response.status == http.client.PARTIAL_CONTENT
    done = done if resumed else 0
    length = response.headers.get('Content-Length')
    total = wanted.size or (done + int(length) if length else 0)
    reported_at = time.monotonic()
    with part.open('ab' if resumed else 'wb') as file:
      while block := response.read(_BLOCK):
        file.write(block)
        done += len(block)
        if time.monotonic() - reported_at > 5:
          reported_at = time.monotonic()
          say(f'  {done / 1e6:.0f} of {total / 1e6:.0f} MB')
  return done >= total
