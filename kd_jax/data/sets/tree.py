"""The images below a folder, and what else it holds.

Nothing is left out without a word: `LeftOut` counts what is not read, by
reason. Of files whose names tell that they are images none is opened here.
"""

from collections.abc import Iterator
import os
from typing import NamedTuple

from etils import epath

from kd_jax import errors
from kd_jax.data import decode

# What programs leave in folders, beside all names that begin with a dot.
_LITTER = {
  '@eadir', '__macosx', '__pycache__', '#recycle', '$recycle.bin', 'thumbs.db',
  'ehthumbs.db', 'desktop.ini',
}  # fmt: skip
_SHOWN = 3  # names that are shown for a reason


class Entry(NamedTuple):
  """What a folder holds under a name.

  Attributes:
    path: The path.
    is_folder: Whether it is a folder, or a link to one.
    is_file: Whether it is a regular file, or a link to one.
  """

  path: epath.Path
  is_folder: bool
  is_file: bool


class LeftOut:
  """Counts what is left out of a folder, by reason."""

  def __init__(self, root: epath.Path):
    """Creates the empty count.

    Args:
      root: The folder from which names are shown.
    """
    self._root = root
    self._names: dict[str, list[str]] = {}

  def add(self, reason: str, path: epath.Path) -> None:
    """Counts a file or a folder with all that it holds.

    Args:
      reason: Why it is left out.
      path: Its path, below the root.
    """
    name = str(path.relative_to(self._root))
    self._names.setdefault(reason, []).append(name)

  def __str__(self) -> str:
    """Returns the counts in one line; '' if nothing is left out."""
    parts = []
    for reason, names in self._names.items():
      shown = ', '.join(errors.shown(n) for n in sorted(names)[:_SHOWN])
      more = ', ...' if len(names) > _SHOWN else ''
      parts.append(f'{len(names)} {reason} ({shown}{more})')
    return f'left out: {"; ".join(parts)}' if parts else ''


def is_litter(name: str) -> bool:
  """Returns whether a name is hidden or what programs leave in folders."""
  return name.startswith('.') or name.lower() in _LITTER


def entries(folder: epath.Path, left_out: LeftOut) -> list[Entry]:
  """Returns what a folder holds, but for litter, sorted by name.

  Args:
    folder: The folder.
    left_out: Counts the litter.

  Raises:
    UsageError: The folder cannot be read, or holds a link to nothing.
  """
  found = []
  for entry in sorted(_listed(folder), key=lambda entry: entry.path.name):
    if is_litter(entry.path.name):
      left_out.add('hidden or litter', entry.path)
    elif entry.is_folder or entry.is_file or not _is_broken(entry.path):
      found.append(entry)
    else:
      raise errors.UsageError(
        f'cannot read {entry.path}: it is a link to nothing; restore what it '
        'points to, or remove it'
      )
  return found


def images(folder: epath.Path, left_out: LeftOut) -> list[epath.Path]:
  """Returns the images in a folder and its sub-folders, sorted by their path.

  Args:
    folder: The folder.
    left_out: Counts what is no image.

  Raises:
    UsageError: A folder cannot be read, or there is a link to nothing.
  """
  found: list[epath.Path] = []
  to_visit: list[tuple[epath.Path, frozenset[str]]] = [(folder, frozenset())]
  while to_visit:
    place, above = to_visit.pop()
    real = place.fspath() if _is_remote(place) else os.path.realpath(place)
    if real in above:
      left_out.add('linking to a folder above', place)
      continue
    for entry in entries(place, left_out):
      if entry.is_folder:
        to_visit.append((entry.path, above | {real}))
      elif not entry.is_file:
        left_out.add('neither file nor folder', entry.path)
      elif _is_image(entry.path):
        found.append(entry.path)
      else:
        left_out.add('of no image format', entry.path)
  return sorted(found, key=lambda path: path.parts)


def _listed(folder: epath.Path) -> Iterator[Entry]:
  """Yields what a folder holds.

  Raises:
    UsageError: The folder, or what it holds, cannot be read.
  """
  path = folder
  try:
    if _is_remote(folder):
      for path in folder.iterdir():
        # A question to the store for each; a name like 'x.png' answers it.
        is_file = path.suffix.lower() in decode.SUFFIXES or not path.is_dir()
        yield Entry(path, not is_file, is_file)
      return
    with os.scandir(folder) as listed:
      for item in listed:
        path = folder / item.name
        yield Entry(path, item.is_dir(), item.is_file())
  except OSError as error:
    raise errors.UsageError(
      f'cannot read {path}: {error.strerror or error}; make it readable or '
      'remove it'
    ) from error


def _is_remote(path: epath.Path) -> bool:
  return '://' in os.fspath(path)


def _is_broken(path: epath.Path) -> bool:
  return os.path.islink(path) and not os.path.exists(path)


def _is_image(path: epath.Path) -> bool:
  """Returns whether a file is an image, by its name or else by its content."""
  if path.suffix.lower() in decode.SUFFIXES:
    return True
  try:
    with path.open('rb') as file:
      return decode.is_image(file)
  except OSError as error:
    raise errors.UsageError(
      f'cannot read {path}: {error.strerror or error}; make it readable or '
      'remove it'
    ) from error
