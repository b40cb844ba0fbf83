"""Objects of Google Cloud Storage buckets.

A bucket has no folders, no locks and no append. An object is written as a
whole or not at all. A write can be conditional on the object's generation, a
number that every write changes: it then happens only if nobody has written the
object since the writer read it.
"""

import logging
import os
from typing import Any

from etils import epath

from kd_jax import errors

# Seconds without an answer after which a request counts as failed.
_PATIENCE = 10


class UnreachableError(OSError):
  """The bucket did not answer, or refused; the message is one line."""


def is_bucket(path: epath.PathLike) -> bool:
  """Returns whether a path lies in a bucket rather than on a disk."""
  return '://' in os.fspath(path)


def absolute(path: epath.PathLike) -> str:
  """Returns a path as it can be read from every working directory."""
  text = os.fspath(path)
  return text if is_bucket(text) else os.path.abspath(text)


def prepare(path: epath.PathLike) -> None:
  """Configures gcsfs; must run before the first path of a bucket is read.

  It switches off gcsfs's cache of listings, which would hide what TensorStore
  and other machines write.

  Args:
    path: The path that will be used, for checks and error messages.

  Raises:
    UsageError: The path is not in a Google bucket, or gcsfs is missing.
  """
  if not os.fspath(path).startswith('gs://'):
    raise errors.UsageError(
      f'{path}: a run folder is a path of this machine or gs://bucket/...'
    )
  try:
    import fsspec
    import gcsfs  # noqa: F401  (etils looks it up by name)
  except ImportError as error:
    raise errors.UsageError(
      f"{path} needs gcsfs: pip install 'kd_jax[gcs]' ({error})"
    ) from error
  fsspec.config.conf.setdefault('gcs', {})['use_listings_cache'] = False
  # gcsfs logs a traceback of each error that it also raises.
  logging.getLogger('gcsfs').setLevel(logging.CRITICAL)


def exists(path: epath.Path) -> bool:
  """Returns whether there is an object or a folder of a path.

  Args:
    path: The path, 'gs://bucket/...'.

  Raises:
    UnreachableError: The bucket did not answer, or refused.
    UsageError: The path is not in a Google bucket, or gcsfs is missing.
  """
  prepare(path)
  try:
    return path.exists()
  # gcsfs lets errors of aiohttp, google.auth and requests through.
  except Exception as error:
    raise _unreachable(error) from error


def _unreachable(error: Exception) -> UnreachableError:
  line = ' '.join(str(error).split())[:200]
  return UnreachableError(f'{type(error).__name__}: {line}')


class Object:
  """An object of a bucket, which is written on condition of its generation."""

  def __init__(self, path: epath.Path):
    """Prepares access to the object; nothing is read or written yet.

    Args:
      path: The object's path, 'gs://bucket/...'.

    Raises:
      UsageError: The path is not in a Google bucket, or gcsfs is missing.
    """
    import fsspec

    prepare(path)
    self._fs = fsspec.filesystem('gcs', requests_timeout=_PATIENCE)
    self._bucket, _, self._key = (
      os.fspath(path).removeprefix('gs://').partition('/')
    )

  def read(self) -> tuple[bytes, int]:
    """Returns the object's content and generation; b'' and 0 if none exists.

    Raises:
      UnreachableError: The bucket did not answer, or refused.
    """
    try:
      headers, content = self._call(
        'GET',
        'download/storage/v1/b/{}/o/{}',
        self._key,
        alt='media',
        # Google caches the objects of public buckets.
        headers={'Cache-Control': 'no-cache'},
      )
    except FileNotFoundError:
      return b'', 0
    return content, int(headers['x-goog-generation'])

  def write(self, content: bytes, generation: int) -> int | None:
    """Writes the object if it still has the given generation.

    Args:
      content: The new content.
      generation: The generation that was read; 0 requires that no object
        exists.

    Returns:
      The new generation, or None if the object was written or deleted since.

    Raises:
      UnreachableError: It is unknown whether the object was written.
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
    except FileExistsError:  # gcsfs raises it for 412, precondition failed
      return None
    except FileNotFoundError as error:
      raise UnreachableError(f'there is no bucket {self._bucket}') from error
    return int(resource['generation'])

  def delete(self, generation: int) -> None:
    """Deletes the object if it still has the given generation.

    Args:
      generation: The generation that was read.

    Raises:
      UnreachableError: It is unknown whether the object was deleted.
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
    # The location is an emulator's address if gcsfs is configured so.
    url = f'{self._fs._location}/{path}'
    try:
      return self._fs.call(method, url, self._bucket, *names, **given)
    except (FileExistsError, FileNotFoundError):
      raise
    # gcsfs lets errors of aiohttp, google.auth and requests through.
    except Exception as error:
      raise _unreachable(error) from error
