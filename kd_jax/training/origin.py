"""What is at the path of a teacher, known by its content."""

from collections.abc import Iterator
import json
import os

from etils import epath

from kd_jax import errors
from kd_jax.export import artifact
from kd_jax.runtime import digests, gcs, run_dir

# The facts of a run's data that say what its network sees and predicts.
_SEEN = ('class_names', 'image_size', 'mean', 'std')


def digest(path: epath.PathLike, home: epath.Path) -> str:
  """Returns a digest of a file of weights, of a run or of an export.

  Args:
    path: The file or the folder.
    home: The folder where digests of files are kept; see `digests`.

  Returns:
    Of a file, the first 32 hexadecimal digits of its SHA-256; of a folder, 16
    digits of a digest of the files that make the network; '' if there is
    neither.

  Raises:
    UsageError: A file cannot be read, or a bucket does not answer.
  """
  place = epath.Path(gcs.absolute(epath.Path(path).expanduser()))
  try:
    is_there = gcs.exists(place) if gcs.is_bucket(place) else place.exists()
  except OSError as error:
    raise errors.UsageError(f'{path} cannot be reached: {error}') from error
  if not is_there:
    return ''
  if not place.is_dir():
    return digests.of_files({'file': place}, str(place), home)['file']
  if artifact.is_export(place):
    names = (artifact.FACTS, artifact.WEIGHTS, artifact.FORWARD)
    files = {name: place / name for name in names}
    seen = {}
  else:
    files = {
      str(file)[len(str(place)) + 1 :]: file
      for kept in ('student', 'deployed')
      for file in _below(place / kept)
    }
    config = run_dir.Folder(place).read_alone('config.json') or {}
    facts = config.get('data_facts') or {}
    seen = {key: json.dumps(facts.get(key)) for key in _SEEN}
  found = digests.of_files(files, str(place), home)
  return digests.of_contents({**found, **seen}, home)


def _below(folder: epath.Path) -> Iterator[epath.Path]:
  """Yields all files of a folder, which need not be there."""
  if folder.is_dir():
    for path in folder.iterdir():
      if path.is_dir():
        yield from _below(path)
      # A pipe would make its reader wait; epath takes it for a file.
      elif gcs.is_bucket(path) or os.path.isfile(path):
        yield path


def check(
  was: str,
  now: str,
  path: str,
  folder: run_dir.Folder,
  key: str = 'config.teacher.path',
  what: str = 'teacher',
) -> None:
  """Checks that a teacher's path holds what a run was begun with.

  A path that is gone is none of the run's concern, which has its own copy; nor
  is one of a run that was begun before teachers were known by their content.

  Args:
    was: The digest with which the run was begun; '' if it is not known.
    now: The digest of what is there, or its first digits; '' if it is gone.
    path: The value of `config.teacher.path`.
    folder: The run's folder.
    key: The name of the key of the path.
    what: What is there, for the message.

  Raises:
    UsageError: The path holds something else.
  """
  digits = min(len(was), len(now))
  if was[:digits] != now[:digits]:
    raise errors.UsageError(
      f'{key}={path!r} holds another {what} (digest {now[:16]}) '
      f'than the one that {folder.path} was begun with ({was[:16]}); give '
      f'another --workdir, or put the {what} back'
    )
