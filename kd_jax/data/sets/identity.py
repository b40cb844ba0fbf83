"""By what a prepared data set is known: its records, or the archive of them."""

from collections.abc import Mapping
import json

from etils import epath

from kd_jax import errors
from kd_jax.runtime import digests, durable, gcs

# In a prepared folder, the archive from which it was made. Encoders of images
# differ between machines, so that one archive may give several record files.
ORIGIN = 'kd_jax_origin.json'
# In a folder that kd_jax has written shard by shard, their sizes and digests.
DIGESTS = 'kd_jax_digests.json'


def fingerprint(folder: epath.Path, home: epath.Path | None) -> str:
  """Returns a digest of the records and of the names of their classes.

  It is that of the archive if the files are as they were made from it.

  Args:
    folder: The folder of the prepared data set.
    home: The folder where digests of the files are kept; see `digests`.

  Raises:
    UsageError: What was written of the archive or of the records is damaged.
  """
  files = {
    path.name: path
    for path in folder.iterdir()
    if '.array_record' in path.name or path.name.endswith('.labels.txt')
  }
  found = _stated(folder, files)
  if not found:
    found = digests.of_files(files, gcs.absolute(folder), home)
  of_records = digests.of_contents(found, home)
  if not (folder / ORIGIN).exists():
    return of_records
  try:
    made = json.loads((folder / ORIGIN).read_text())
    same, of_archive = made['records'] == of_records, made['fingerprint']
  except (KeyError, TypeError, ValueError) as error:
    raise errors.UsageError(
      f'{folder / ORIGIN} is damaged: copy the folder again, or remove the '
      'file, without which the data are known by their records'
    ) from error
  return of_archive if same else of_records


def _stated(
  folder: epath.Path, files: Mapping[str, epath.Path]
) -> dict[str, str]:
  """Returns the digests that were written with the shards, by file.

  With them no machine of a pod reads 145 GB to know what it has. A folder that
  tfds has prepared has none.

  Raises:
    UsageError: A file is not there, has not the size that was written or is of
      elsewhere, or the list of them is damaged.
  """
  if not (folder / DIGESTS).exists():
    return {}
  try:
    listed = json.loads((folder / DIGESTS).read_text()).items()
    stated = {name: (int(size), digest) for name, (size, digest) in listed}
  except (AttributeError, TypeError, ValueError) as error:
    again = f'{folder / DIGESTS} is damaged: copy the folder again'
    raise errors.UsageError(again) from error
  if others := {*files} - {*stated}:
    other = f'{folder / min(others)} was not written with the others: remove it'
    raise errors.UsageError(other)
  for name, (size, _) in stated.items():
    there = files[name].stat().length if name in files else 0
    if there != size:
      raise errors.UsageError(
        f'{folder / name} has {there} bytes, and {size} were written: copy the '
        'folder again, or prepare it again'
      )
  return {name: digest for name, (_, digest) in stated.items()}


def remember(
  folder: epath.Path, archive_file: epath.Path, name: str, version: str
) -> None:
  """Writes from what archive a data set was prepared.

  Args:
    folder: The folder of the prepared data set.
    archive_file: The archive.
    name: The data set's name.
    version: The version of what prepares it.
  """
  found = digests.of_files({'archive': archive_file}, name)
  made = {
    **found,
    'fingerprint': digests.of_contents({**found, 'version': version}),
    'records': fingerprint(folder, None),
  }
  text = json.dumps(made, indent=2) + '\n'
  if gcs.is_bucket(folder):  # writes of objects are atomic
    (folder / ORIGIN).write_text(text)
  else:
    durable.write(folder / ORIGIN, text.encode())
