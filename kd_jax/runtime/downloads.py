"""Downloads of files by URL, which resume after a failure and are verified."""

from collections.abc import Callable
import hashlib
import http.client
import time
from typing import NamedTuple

from etils import epath

from kd_jax import errors
from kd_jax.runtime import distributed, transfer
from kd_jax.runtime.transfer import Limits

_TRIES = 5
_LIMITS = Limits()


class Published(NamedTuple):
  """A file on the web, with the checksum that its owners publish.

  Attributes:
    url: The file's URL.
    algorithm: The algorithm of the checksum, 'sha256' or 'md5'.
    checksum: The hexadecimal checksum, or its first digits; '' for any file.
    size: The size in bytes; 0 if it is unknown.
  """

  url: str
  algorithm: str
  checksum: str
  size: int = 0

  def __str__(self) -> str:
    """Returns the URL, without its secrets, with size and checksum."""
    size = f'{self.size} bytes, ' if self.size else ''
    known = f'{self.algorithm} {self.checksum or "not given"}'
    return f'{errors.public(self.url)} ({size}{known})'


def is_url(path: str) -> bool:
  """Returns whether a path is a URL that `fetch` can download."""
  return path.lower().startswith(('http://', 'https://'))


def digest(path: epath.Path, algorithm: str = 'sha256') -> str:
  """Returns the hexadecimal checksum of a file."""
  with path.open('rb') as file:
    return hashlib.file_digest(file, algorithm).hexdigest()


def verify(wanted: Published, path: epath.Path, cure: str) -> None:
  """Checks a file against its published checksum.

  Args:
    wanted: The published file.
    path: The local file.
    cure: A sentence for the error message: what the user can do.

  Raises:
    UsageError: The checksums differ.
  """
  actual = digest(path, wanted.algorithm)
  if not actual.startswith(wanted.checksum.lower()):
    raise errors.UsageError(
      f'{path} ({path.stat().length} bytes, {wanted.algorithm} {actual}) is '
      f'not {wanted}; it is truncated or another file. {cure}'
    )


def fetch(
  wanted: Published,
  path: epath.Path,
  cure: str,
  say: Callable[[str], None],
  limits: Limits = _LIMITS,
) -> None:
  """Downloads a file and verifies it.

  The data goes to a .part file, from which a later call resumes. Its size is
  bounded by the published one, else by what the server announces, else by
  `limits`. A server that is busy is asked again, as late as it says.

  Args:
    wanted: The file to download.
    path: The path of the complete file.
    cure: A sentence for the error message: what the user can do if the
      download fails.
    say: Called with lines about the progress.
    limits: What the download may take.

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
  say(errors.line(f'downloading {wanted.url}{size}'))
  try:
    whole = _transferred(wanted, part, say, limits)
  except transfer.Refused as error:
    if isinstance(error, transfer.Other):
      part.unlink(missing_ok=True)  # the next call starts from the first byte
    kept = _length(part)
    more = f'; the same command goes on from byte {kept}' if kept else ''
    raise errors.UsageError(
      f'cannot download {wanted}: {error}. {cure}{more}'
    ) from error
  except (OSError, http.client.HTTPException) as error:
    reason = (
      getattr(error, 'reason', None) or str(error) or type(error).__name__
    )
    raise errors.UsageError(
      f'cannot download {wanted}: {reason}. {cure}'
    ) from error
  if not whole:
    size = f'of {wanted.size} ' if wanted.size else ''
    raise errors.UsageError(
      f'{errors.public(wanted.url)} broke off at {_length(part)} {size}bytes; '
      'the same command goes on from there'
    )
  try:
    verify(wanted, part, cure)
  except errors.UsageError:
    part.unlink()  # so that the next call starts from the first byte
    raise
  part.replace(path)


def _length(path: epath.Path) -> int:
  return path.stat().length if path.exists() else 0


def _transferred(
  wanted: Published,
  part: epath.Path,
  say: Callable[[str], None],
  limits: Limits,
) -> bool:
  """Tries to complete `part`; returns whether it is complete.

  It tries again after a server was busy, or broke off with some bytes given.
  """
  end = time.monotonic() + limits.deadline_s
  for number in range(1, _TRIES + 1):
    done, left_s = _length(part), end - time.monotonic()
    try:
      if transfer.get(
        wanted.url,
        part,
        size=wanted.size,
        say=say,
        limits=limits,
        left_s=left_s,
      ):
        return True
    except transfer.Busy as error:
      if number == _TRIES:
        raise transfer.Refused(str(error)) from error
      asked = limits.pause_s * 2 ** (number - 1)
      asked = error.after_s if error.after_s is not None else asked
      pause = min(asked, limits.longest_pause_s, max(0.0, left_s))
      say(f'  {error}; again in {pause:.3g} s')
      time.sleep(pause)
    except (OSError, http.client.HTTPException):
      if _length(part) <= done:  # no data came: a retry would fail too
        raise
  return False
