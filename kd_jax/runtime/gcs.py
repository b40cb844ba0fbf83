"""Objects of Google Cloud Storage buckets.

A bucket has no folders, no locks and no append. What it has are objects that
are written whole or not at all, and writes that happen only where the object
still is what the writer has read: its generation, a number that every write
changes.
"""

import logging
import os
from typing import Any

from etils import epath

from kd_jax import errors

# Seconds after which a request that has no answer counts as failed.
_PATIENCE = 10


class UnreachableError(OSError):
  """The bucket did not answer, or refused; one line says which."""


def is_bucket(path: epath.PathLike) -> bool:
  """Whether a path lies in a bucket, rather than on a disk."""
  return '://' in os.fspath(path)


def prepare(path: epath.PathLike) -> None:
  """Makes the paths of a bucket usable, before the first one is read.

  gcsfs keeps what it has listed; what TensorStore and other machines write
  would stay unseen.

  Raises:
    UsageError: for buckets of other services, or where gcsfs is missing.
  """
  if not os.fspath(path).startswith('gs://'):
    raise errors.UsageError(
      f'{path}: a run folder is a path of this machine or gs://bucket/...'
    )
  try:
    import fsspec
    import gcsfs  # noqa: F401  (etils finds it by its name)
  except ImportError as error:
    raise errors.UsageError(
      f"{path} needs gcsfs: pip install 'kd_jax[gcs]' ({error})"
    ) from error
  fsspec.config.conf.setdefault('gcs', {})['use_listings_cache'] = False
  # It logs a traceback of each error that it also raises.
  logging.getLogger('gcsfs').setLevel(logging.CRITICAL)


class Object:
  """One object, read and written under a condition."""

  def __init__(self, path: epath.Path):
    """Names the object; nothing is read or written yet."""
    import fsspec

    prepare(path)
    self._fs = fsspec.filesystem('gcs', requests_timeout=_PATIENCE)
    self._bucket, _, self._key = (
      os.fspath(path).removeprefix('gs://').partition('/')
    )

  def read(self) -> tuple[bytes, int]:
    """Its content and generation; b'' and 0 where there is none.

    Raises:
      UnreachableError: where that cannot be known.
    """
    try:
      headers, content = self._call(
        'GET',
        'download/storage/v1/b/{}/o/{}',
        self._key,
        alt='media',
        headers={'Cache-Control': 'no-cache'},  # public buckets are cached
      )
    except FileNotFoundError:
      return b'', 0
    return content, int(headers['x-goog-generation'])

  def write(self, content: bytes, generation: int) -> int | None:
    """Writes it where it still has this generation (0: where there is none).

    Returns:
      The new generation, or None where it was written or deleted since.

    Raises:
      UnreachableError: where it cannot be known whether it is written.
    """
    try:
      resource = self._call(
        'POST',
        'upload/storage/v1/b/{}/o',
        uploadType='media',
        name=self._key,
        ifGenerationMatch=str(generation),
        data=content,
        json_out=True,
      )
    except FileExistsError:  # what gcsfs makes of 412, precondition failed
      return None
    except FileNotFoundError as error:
      raise UnreachableError(f'there is no bucket {self._bucket}') from error
    return int(resource['generation'])

  def delete(self, generation: int) -> None:
    """Deletes it where it still has this generation.

    Raises:
      UnreachableError: where it cannot be known whether it is deleted.
    """
    try:
      self._call(
        'DELETE',
        'storage/v1/b/{}/o/{}',
        self._key,
        ifGenerationMatch=str(generation),
      )
    except (FileExistsError, FileNotFoundError):
      return

  def _call(self, method: str, path: str, *names: str, **given: Any) -> Any:
    url = f'{self._fs._location}/{path}'  # that of an emulator, where set
    try:
      return self._fs.call(method, url, self._bucket, *names, **given)
    except (FileExistsError, FileNotFoundError):
      raise
    # gcsfs raises whatever it met: aiohttp's, google.auth's, requests' errors.
    except Exception as error:
      line = ' '.join(str(error).split())[:200]
      raise UnreachableError(f'{type(error).__name__}: {line}') from error
