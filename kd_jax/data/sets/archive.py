"""Getting an archive: from a path, from the download folder, or by download."""

from collections.abc import Callable

from etils import epath

from kd_jax import errors
from kd_jax.runtime import downloads

_CURE = (
  'Fetch it again, or give it by config.data.archive with '
  'config.data.any_checksum=True'
)


def obtain(
  archive: downloads.Published,
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
        f'config.data.archive={path!r} is no file; it should be {archive}'
      )
  else:
    found = folder / archive.url.rsplit('/', 1)[1]
    if not found.exists():
      cure = f'Put the file at {found}, or name it by config.data.archive'
      downloads.fetch(archive, found, cure, say)
      return found
  if not any_checksum:
    downloads.verify(archive, found, _CURE)
  return found
