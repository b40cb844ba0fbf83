"""Files in chunks of a limited size, with a list of their SHA-256.

The list is a file SHA256SUMS, in the format of `sha256sum --check`. It is
replaced atomically once the files that it names are complete. A folder that is
copied at any moment therefore holds a complete older or a complete newer state.
"""

from collections.abc import Iterable, Mapping
import hashlib
import os
import pathlib
import tarfile
import tempfile

from kd_jax import errors

SUMS = 'SHA256SUMS'
MB = 10**6  # bytes


def replace(path: pathlib.Path, text: str) -> None:
  """Writes a text file atomically: a reader sees the old or the new text."""
  part = path.with_name(f'{path.name}.part')
  part.write_text(text, encoding='utf-8')
  os.replace(part, path)


def write_sums(folder: pathlib.Path, names: Iterable[str]) -> None:
  """Writes the SHA-256 of a folder's files `names` to its SHA256SUMS."""
  lines = [f'{_digest(folder / name)}  {name}\n' for name in sorted(names)]
  replace(folder / SUMS, ''.join(lines))


def verified(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the files that SHA256SUMS names, in order of their names.

  Raises:
    UsageError: The list or a file is missing, or a file has another SHA-256.
  """
  if not (folder / SUMS).is_file():
    raise errors.UsageError(
      f'{folder} has no {SUMS}: give the folder that this command wrote'
    )
  paths = []
  for line in (folder / SUMS).read_text(encoding='utf-8').splitlines():
    wanted, _, name = line.partition('  ')
    path = folder / name
    if not path.is_file():
      raise errors.UsageError(f'{path} is missing: copy it there again')
    if _digest(path) != wanted:
      raise errors.UsageError(
        f'{path} does not have the SHA-256 of {SUMS}: copy it there again'
      )
    paths.append(path)
  return paths


def write_tar(
  folder: pathlib.Path,
  stem: str,
  members: Mapping[str, pathlib.Path],
  most: int,
) -> list[str]:
  """Writes files and folders as chunks of one tar.

  It deletes the chunks of an earlier call once the new list is written.

  Args:
    folder: The folder for the chunks `<stem>.tar.00000`, ... and the list.
    stem: The first part of the chunks' names. If it differs from that of the
      last call, the older state stays complete meanwhile.
    members: The files and folders to write, by their paths in the tar.
    most: The maximum size of a chunk, in bytes.

  Returns:
    The names of the chunks.
  """
  folder.mkdir(parents=True, exist_ok=True)
  names: list[str] = []
  with tempfile.TemporaryFile() as file:
    with tarfile.open(fileobj=file, mode='w') as tar:
      for name, path in members.items():
        tar.add(path, name)
    file.seek(0)
    while chunk := file.read(most):
      names.append(f'{stem}.tar.{len(names):05}')
      (folder / names[-1]).write_bytes(chunk)
  write_sums(folder, names)
  for path in folder.glob('*.tar.*'):
    if path.name not in names:
      path.unlink()
  return names


def read_tar(folder: pathlib.Path, target: pathlib.Path) -> None:
  """Extracts what `write_tar` wrote.

  Args:
    folder: The folder with the chunks and their list.
    target: The folder to extract into.

  Raises:
    UsageError: A chunk is missing or has another SHA-256.
  """
  with tempfile.TemporaryFile() as file:
    for path in verified(folder):
      file.write(path.read_bytes())
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
      tar.extractall(target, filter='data')


def _digest(path: pathlib.Path) -> str:
  with path.open('rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
