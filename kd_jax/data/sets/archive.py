"""Archives: from a path, from the download folder, or by download."""

from collections.abc import Callable

from etils import epath

from kd_jax import errors
from kd_jax.runtime import downloads, screen

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
