"""Shards in tfds's layout, written by several processes from images in a file.

A shard is written beside its place and renamed once it is whole, so that a
build that was killed goes on with the shards that it lacks. What a shard holds
is a function of the images' names and the seed: two builds are bit-identical.
"""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import concurrent.futures.process
import contextlib
import hashlib
import io
import multiprocessing
import os
import pathlib
import threading
import time
from typing import Any, NamedTuple

from PIL import Image
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer, file_adapters

from kd_jax import errors
from kd_jax.data import decode
from kd_jax.runtime import digests

# As tensorflow-datasets has them:
MOST = 1024  # shards
LEAST_BYTES = 2**26  # of a shard
_QUALITY = 95  # of an image that is encoded again
_PARENT_S = 1.0  # seconds between two looks at whether the parent is there
# Maps a function over tasks, and gives the results in any order.
Mapped = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]


class Row(NamedTuple):
  """An image to be written.

  Attributes:
    name: The name of its file.
    label: The class index.
    offset: The position of its first byte in the archive.
    size: The number of bytes.
  """

  name: str
  label: int
  offset: int
  size: int


class Shard(NamedTuple):
  """A shard to be written.

  Attributes:
    path: Its file.
    archive: The file that holds the images.
    rows: The images, in order.
    classes: The names of the classes.
  """

  path: str
  archive: str
  rows: list[Row]
  classes: tuple[str, ...]


class Written(NamedTuple):
  """A shard that was written.

  Attributes:
    name: The name of its file.
    digest: The digest of its content; see `digests.of_files`.
    encoded: The names of the images that were encoded again.
  """

  name: str
  digest: str
  encoded: tuple[str, ...]


def features(classes: Sequence[str]) -> tfds.features.FeaturesDict:
  """Returns the features of tfds's own imagenet2012."""
  return tfds.features.FeaturesDict(
    {
      'file_name': tfds.features.Text(),
      'image': tfds.features.Image(encoding_format='jpeg'),
      'label': tfds.features.ClassLabel(names=classes),
    }
  )


def count(rows: Sequence[Row]) -> int:
  """Returns the number of shards of a split: a power of two, at most 1024."""
  size, number = sum(row.size for row in rows), 1
  while number < MOST and size >= 2 * number * LEAST_BYTES:
    number *= 2
  return number


def planned(
  folder: pathlib.Path,
  stem: str,
  archive: pathlib.Path,
  rows: Sequence[Row],
  classes: Sequence[str],
  seed: int,
) -> list[Shard]:
  """Returns the shards of a split, in a random order of its images.

  Args:
    folder: The folder of the shards.
    stem: What their names begin with: the data set and the split.
    archive: The file that holds the images.
    rows: The images; their order does not matter.
    classes: The names of the classes.
    seed: The seed of the order.
  """

  def key(row: Row) -> bytes:
    text = f'{seed} {row.name}'.encode()
    return hashlib.blake2b(text, digest_size=16).digest()

  ordered, number = sorted(rows, key=key), count(rows)
  ends = [round(len(rows) * i / number) for i in range(number + 1)]
  return [
    Shard(
      str(folder / f'{stem}.array_record-{i:05}-of-{number:05}'),
      str(archive),
      ordered[ends[i] : ends[i + 1]],
      tuple(classes),
    )
    for i in range(number)
  ]


def write(shard: Shard) -> Written:
  """Writes a shard, and renames it to its path once it is whole.

  Images that are no RGB or grey JPEG are encoded as such: of ImageNet, 22 in
  CMYK and a PNG.

  Raises:
    UsageError: An image is damaged, or the archive is cut off.
    RunError: The shard cannot be written.
  """
  made = features(shard.classes)
  serializer = example_serializer.ExampleSerializer(made.get_serialized_info())
  records, encoded = [b''] * len(shard.rows), []
  with open(shard.archive, 'rb', buffering=0) as file:
    by_place = sorted(range(len(records)), key=lambda i: shard.rows[i].offset)
    for i in by_place:  # forward in the archive
      row = shard.rows[i]
      content = _read(file, row)
      if not decode.is_plain_jpeg(content):
        content = _encoded(content, row.name)
        encoded.append(row.name)
      example = {'file_name': row.name, 'label': row.label}
      example['image'] = io.BytesIO(content)
      filled = serializer.get_tf_example(made.encode_example(example))
      records[i] = filled.SerializeToString(deterministic=True)
  path = pathlib.Path(shard.path)
  part = path.with_name(f'{path.name}.{os.getpid()}.part')
  try:
    _write(part, records)
    found = digests.of_files({path.name: part}, path.name)
    part.replace(path)
  except (OSError, RuntimeError) as error:  # array_record raises the second
    part.unlink(missing_ok=True)
    raise errors.RunError(
      f'cannot write {path}: {error}; the same command goes on with the shards '
      'that are missing'
    ) from error
  return Written(path.name, found[path.name], tuple(sorted(encoded)))


def _read(file: io.FileIO, row: Row) -> bytes:
  file.seek(row.offset)
  content = b''
  while len(content) < row.size:
    block = file.read(row.size - len(content))
    if not block:
      raise errors.UsageError(f'{file.name} is cut off within {row.name}')
    content += block
  return content


def _encoded(content: bytes, name: str) -> bytes:
  """Returns an image as a JPEG in RGB, at the full resolution of colours."""
  made = io.BytesIO()
  image = Image.fromarray(decode.decode(content, name))
  image.save(made, 'JPEG', quality=_QUALITY, subsampling=0)
  return made.getvalue()


def _write(part: pathlib.Path, records: list[bytes]) -> None:
  """Writes a file of records as tfds does, and waits until it is on the disk.

  Raises:
    RuntimeError: It has another number of records.
  """
  adapter = file_adapters.ArrayRecordFileAdapter
  adapter.write_examples(part, ((0, record) for record in records))
  with open(part, 'rb') as file:
    os.fsync(file.fileno())
  if adapter.num_examples(part) != len(records):
    raise RuntimeError('it has lost records')


@contextlib.contextmanager
def mapper(workers: int) -> Iterator[Mapped]:
  """Gives a function that maps in worker processes; see `Mapped`.

  Args:
    workers: The number of processes; 0 works in this one.
  """
  if not workers:
    yield lambda work, tasks: map(work, tasks)
    return
  pool = concurrent.futures.ProcessPoolExecutor(
    workers,
    multiprocessing.get_context('spawn'),
    initializer=_end_with,
    initargs=(os.getpid(),),
  )

  def results(work: Any, tasks: Sequence[Any]) -> Iterator[Any]:
    futures = [pool.submit(work, task) for task in tasks]
    for future in concurrent.futures.as_completed(futures):
      yield future.result()

  try:
    yield results
  except concurrent.futures.process.BrokenProcessPool as error:
    raise errors.RunError(
      'a worker process was killed, by the kernel where memory ran out; the '
      'same command goes on, with fewer workers if you like'
    ) from error
  finally:
    pool.shutdown(cancel_futures=True)


def _end_with(parent: int) -> None:
  """Lets this worker process end soon after its parent was killed."""

  def watch() -> None:
    while os.getppid() == parent:
      time.sleep(_PARENT_S)
    os._exit(1)

  threading.Thread(target=watch, daemon=True).start()
