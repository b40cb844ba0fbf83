"""What files hold, as digests that are read again only where a file changed.

A file's digest is kept under its path with its size, its inode and its times of
modification and change, in the folder that all runs share:

digests/files-<hash>.json   digests of the files of a data set or a teacher
digests/of-<digest>.json.gz what a content was, to say later what has changed

A file that was changed in the last seconds is not kept, since its next change
may leave the times as they are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import concurrent.futures
import contextlib
import gzip
import hashlib
import json
import os
import time
from typing import Any

from etils import epath

from kd_jax import errors
from kd_jax.runtime import gcs, screen

_DIGITS = 32  # hexadecimal digits of a file's SHA-256 that are kept
_THREADS = 8
_AT_ONCE = 64  # files that a thread takes
_SMALL = 2**20  # bytes of a file that is read as a whole
_SAID = 2**30  # bytes to read, from which on it is said
_UNSETTLED_NS = 2 * 10**9  # the coarsest clock of a file system
# The most files of a content that is remembered to say what has changed.
_REMEMBERED = 100_000
_SHOWN = 3  # names that a message lists


def of_files(
  files: Mapping[str, epath.PathLike],
  what: str,
  home: epath.Path | None = None,
  say: Callable[[str], None] = screen.show,
) -> dict[str, str]:
  """Returns the first 32 hexadecimal digits of the SHA-256 of files, by name.

  Args:
    files: The paths of the files, by name.
    what: What the files are together, such as an absolute path; digests are
      kept under it.
    home: The folder that all runs share; None keeps nothing, and so does a
      folder that cannot be written.
    say: Called with a line before a gigabyte or more is read, and every ten
      seconds after it.

  Raises:
    UsageError: A file cannot be read.
  """
  place = _place(home, f'files-{_short(what)}.json')
  kept = _read(place).get('files', {}) if place else {}
  paths = {name: os.fspath(path) for name, path in files.items()}
  stamps = {name: _stamp(path) for name, path in paths.items()}
  found = {
    name: kept[name][1]
    for name, (_, stamp, _) in stamps.items()
    if name in kept and kept[name][0] == stamp
  }
  missing = [name for name in paths if name not in found]
  if missing:
    began = time.time_ns()
    size = sum(stamps[name][0] for name in missing)
    new = _digests([paths[name] for name in missing], what, size, say)
    found |= dict(zip(missing, new, strict=True))
    fresh = {n for n in missing if stamps[n][2] >= began - _UNSETTLED_NS}
    settled = {
      name: [stamps[name][1], digest]
      for name, digest in found.items()
      if name not in fresh
    }
    if place and settled != kept:
      _write(place, json.dumps({'what': what, 'files': settled}).encode())
  return {name: found[name] for name in paths}


def of_contents(
  contents: Mapping[str, str], home: epath.Path | None = None, text: str = ''
) -> str:
  """Returns a digest of contents by name, 16 hexadecimal digits.

  Args:
    contents: What is there, by name: digests, labels.
    home: The folder that all runs share, where the contents are remembered for
      `changed` if they are at most 100,000; None remembers nothing.
    text: What the digest is of, where older versions wrote the contents in
      another way.
  """
  written = json.dumps(sorted(contents.items()))
  digest = hashlib.sha256((text or written).encode()).hexdigest()[:16]
  place = _place(home, f'of-{digest}.json.gz')
  if place and len(contents) <= _REMEMBERED and not place.exists():
    _write(place, gzip.compress(written.encode(), 1, mtime=0))
  return digest


def changed(old: str, new: str, home: epath.Path | None) -> str:
  """Returns what differs between two contents, '' where it is not known.

  Args:
    old: The digest of the older content, as returned by `of_contents`.
    new: That of the newer content.
    home: The folder that all runs share.
  """
  was, now = (_contents(digest, home) for digest in (old, new))
  if was is None or now is None:
    return ''
  kinds = {
    'other than before': [n for n in was if now.get(n, was[n]) != was[n]],
    'gone': [n for n in was if n not in now],
    'new': [n for n in now if n not in was],
  }
  texts = [
    f'{len(names)} {kind} ({_list(names)})'
    for kind, names in kinds.items()
    if names
  ]
  return f'of {len(was)} files and labels {", ".join(texts)}'


def _list(names: Sequence[str]) -> str:
  shown = ', '.join(sorted(names)[:_SHOWN])
  return f'{shown}, ...' if len(names) > _SHOWN else shown


def _contents(digest: str, home: epath.Path | None) -> dict[str, str] | None:
  place = _place(home, f'of-{digest}.json.gz')
  if place is None or not place.exists():
    return None
  try:
    return dict(json.loads(gzip.decompress(place.read_bytes())))
  except (OSError, EOFError, ValueError, TypeError):
    return None  # it says more than is needed


def _place(home: epath.Path | None, name: str) -> epath.Path | None:
  if home is None:
    return None
  if gcs.is_bucket(home):  # many small writes; the digests are this machine's
    home = epath.Path('~/.cache/kd_jax').expanduser()
  return home / 'digests' / name


def _short(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(place: epath.Path) -> dict[str, Any]:
  """Returns the content of a file of digests; {} if there is none."""
  try:
    return json.loads(place.read_text()) if place.exists() else {}
  except (OSError, ValueError):
    return {}


def _write(place: epath.Path, content: bytes) -> None:
  """Writes a file atomically, if its folder can be written."""
  part = place.with_name(f'{place.name}.{os.getpid()}.part')
  with contextlib.suppress(OSError):  # the files are read again the next time
    place.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(content)
    part.replace(place)


def _stamp(path: str) -> tuple[int, str, int]:
  """Returns a file's size, a text that changes with the file, and its time.

  Raises:
    UsageError: The file is not there.
  """
  try:
    if gcs.is_bucket(path):
      there = epath.Path(path).stat()
      latest = int(there.mtime * 1e9)
      return there.length, f'{there.length} {there.mtime}', latest
    stat = os.stat(path)
  except OSError as error:
    raise _unreadable(path, error) from error
  # The time of change tells a file that was put in the place of another with
  # the time of modification of the other.
  times = stat.st_mtime_ns, stat.st_ctime_ns
  stamp = f'{stat.st_size} {times[0]} {times[1]} {stat.st_ino}'
  return stat.st_size, stamp, max(times)


def _unreadable(path: str, error: OSError) -> errors.UsageError:
  return errors.UsageError(f'cannot read {path}: {error.strerror or error}')


def _digests(
  paths: Sequence[str], what: str, size: int, say: Callable[[str], None]
) -> list[str]:
  """Returns the digests of files, which several threads read.

  Args:
    paths: The paths of the files.
    what: What they are together, for the messages.
    size: Their bytes, all together.
    say: See `of_files`.
  """
  if size >= _SAID:
    say(
      f'reading {what} to know it by its content: {size / 1e9:.1f} GB in '
      f'{len(paths)} files; later starts read only what has changed'
    )
  digests: list[str] = []
  said = time.monotonic()
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    parts = [paths[i : i + _AT_ONCE] for i in range(0, len(paths), _AT_ONCE)]
    for part in pool.map(_of_part, parts):
      digests += part
      if size >= _SAID and time.monotonic() - said > 10:
        said = time.monotonic()
        say(f'  {len(digests)} of {len(paths)} files')
  return digests


def _of_part(paths: Sequence[str]) -> list[str]:
  return [_digest(path) for path in paths]


def _digest(path: str) -> str:
  try:
    with _open(path) as file:
      first = file.read(_SMALL)
      state = hashlib.sha256(first)
      if len(first) == _SMALL:
        for block in iter(lambda: file.read(_SMALL), b''):
          state.update(block)
  except OSError as error:
    raise _unreadable(path, error) from error
  return state.hexdigest()[:_DIGITS]


@contextlib.contextmanager
def _open(path: str) -> Iterator[Any]:
  opened = epath.Path(path).open('rb') if gcs.is_bucket(path) else None
  with opened or open(path, 'rb', buffering=0) as file:
    yield file
