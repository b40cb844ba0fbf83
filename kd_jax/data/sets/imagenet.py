"""ImageNet (ILSVRC 2012) from its own archives to tfds's layout.

The result is what tensorflow-datasets writes as array_record: its names,
features, classes and splits, so that either reads what the other has prepared.
tensorflow-datasets' own builder needs TensorFlow, one process and the room for
a copy of the images beside the result.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import time
from typing import Any, NamedTuple

from etils import epath
import tensorflow_datasets as tfds

from kd_jax import errors
from kd_jax.data.sets import identity, imagenet_tars, prepared, shards
from kd_jax.runtime import digests, downloads, durable, gcs, locks, screen

NAME, VERSION = 'imagenet2012', '5.1.0'  # of tfds's builder
_DEVKIT = imagenet_tars.DEVKIT.url.rsplit('/', 1)[-1]
_STATE = 'kd_jax_build.json'  # of a build that is under way
_SPARE = 1.01  # of the images' bytes: what the records add


class _Split(NamedTuple):
  """A split to be written: its archive, and the images in it."""

  archive: pathlib.Path
  rows: list[shards.Row]


def prepare(
  folder: str,
  *,
  data_dir: str = '',
  labels: str = '',
  workers: int = 0,
  seed: int = 0,
  any_checksum: bool = False,
  any_counts: bool = False,
  shown: screen.Screen | None = None,
) -> epath.Path:
  """Writes ImageNet's shards, or those that an earlier call has not written.

  Args:
    folder: The folder of ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar,
      and of ILSVRC2012_devkit_t12.tar.gz if it is there.
    data_dir: The folder of prepared data sets; see `prepared.root`.
    labels: The validation labels; see `imagenet_tars.validation_labels`. ''
      takes the development kit if it is there, else the list that comes with
      tensorflow-datasets.
    workers: The number of worker processes; 0 works in this one.
    seed: The seed of the order of the images.
    any_checksum: Whether to accept archives whatever their checksums.
    any_counts: Whether to accept other counts of images and classes than the
      published ones. Validation images of classes without training images are
      then left out.
    shown: Where progress is shown.

  Returns:
    The folder of the prepared data set.

  Raises:
    UsageError: An archive is not there or is another one, a label is missing,
      or there is too little room.
    RunError: A shard cannot be written.
  """
  shown = shown or screen.Screen()
  home = prepared.root(data_dir)
  if gcs.is_bucket(home):
    raise errors.ArgumentError(
      f'data_dir={data_dir!r}: shards are written to a disk; give a folder, '
      'and copy it to the bucket'
    )
  tars = pathlib.Path(folder).expanduser()
  archives, kit = _archives(tars), tars / _DEVKIT
  source = pathlib.Path(labels).expanduser() if labels else None
  if source is None and kit.exists():
    source = kit
  home.mkdir(parents=True, exist_ok=True)
  with locks.hold(home / f'.{NAME}.lock', wait=True, say=shown.line):
    there = prepared.find(NAME, home)
    if there is not None:
      return there
    place = pathlib.Path(home) / NAME / f'incomplete.kd_jax_{VERSION}'
    with shards.mapper(workers) as mapped, shown.watched():
      splits, classes = _splits(archives, source, any_counts, mapped, shown)
      state = _begun(place, splits, classes, seed, any_checksum)
      if not any_checksum:
        _check(archives, place, state, shown)
      planned = {
        split: shards.planned(place, f'{NAME}-{split}', *images, classes, seed)
        for split, images in splits.items()
      }
      stated = _written(place, planned, mapped, shown)
    _finish(place, planned, classes, stated)
  complete = prepared.find(NAME, home)
  assert complete is not None
  return complete


def _archives(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Returns the archives by split.

  Raises:
    UsageError: One is not there.
  """
  found = {}
  for split, published in imagenet_tars.PUBLISHED.items():
    path = folder / published.url.rsplit('/', 1)[-1]
    if not path.is_file():
      raise errors.UsageError(
        f'{path} is not there: fetch {published} with your account, and give '
        'the folder of both archives'
      )
    found[split] = path
  return found


def _images(
  task: tuple[pathlib.Path, imagenet_tars.Place],
) -> tuple[str, list[imagenet_tars.Place]]:
  """Returns the wnid of a class's tar, and where its images lie."""
  path, tar = task
  return tar.name.partition('.')[0], imagenet_tars.places(path, tar)


def _splits(
  archives: dict[str, pathlib.Path],
  source: pathlib.Path | None,
  any_counts: bool,
  mapped: shards.Mapped,
  shown: screen.Screen,
) -> tuple[dict[str, _Split], tuple[str, ...]]:
  """Returns the images of both splits, and the wnids of the classes in order.

  Raises:
    UsageError: The counts are not the published ones, or a label is missing.
  """
  train = archives['train']
  tars = imagenet_tars.class_tars(train)
  shown.progress(f'reading the headers of {len(tars)} classes')
  found = dict(mapped(_images, [(train, tar) for tar in tars.values()]))
  classes = tuple(tars)
  indices = {wnid: i for i, wnid in enumerate(classes)}
  images = imagenet_tars.places(archives['validation'])
  wnids = imagenet_tars.validation_labels([i.name for i in images], source)
  rows = {
    'train': [
      shards.Row(place.name, i, place.offset, place.size)
      for i, wnid in enumerate(classes)
      for place in found[wnid]
    ],
    'validation': [
      shards.Row(place.name, indices[wnid], place.offset, place.size)
      for place in images
      if (wnid := wnids[place.name]) in indices
    ],
  }
  counts = {split: len(listed) for split, listed in rows.items()}
  published = (imagenet_tars.COUNTS, imagenet_tars.CLASSES)
  if (counts, len(classes)) != published and not any_counts:
    raise errors.UsageError(
      f'{train.parent} has {counts["train"]} training images of {len(classes)} '
      f'classes and {counts["validation"]} validation images of them, and '
      'ILSVRC 2012 has 1281167 of 1000 classes and 50000: fetch the archives '
      'again, or give any_counts for a part of ImageNet'
    )
  for split, listed in rows.items():
    names = {row.name for row in listed}
    if len(names) != len(listed) or not listed:
      raise errors.UsageError(
        f'{archives[split]} has {len(listed)} images of {len(names)} names: '
        'give an archive whose images have names of their own'
      )
  left_out = len(images) - counts['validation']
  shown.line(
    f'{counts["train"]} training and {counts["validation"]} validation images '
    f'of {len(classes)} classes'
    + (f'; {left_out} of other classes are left out' if left_out else '')
  )
  splits = {name: _Split(archives[name], rows[name]) for name in rows}
  return splits, classes


def _begun(
  place: pathlib.Path,
  splits: dict[str, _Split],
  classes: tuple[str, ...],
  seed: int,
  any_checksum: bool,
) -> dict[str, Any]:
  """Begins a build, or goes on with one; returns what is known of it.

  Raises:
    UsageError: The folder holds a build of other images, another seed or the
      other choice about checksums.
  """
  # What was built without comparing checksums is not gone on with by comparing.
  digest = hashlib.sha256(repr((seed, classes, any_checksum)).encode())
  for split, (_, rows) in splits.items():
    listed = sorted((row.name, row.label, row.size) for row in rows)
    digest.update(repr((split, listed)).encode())
  state = {'content': digest.hexdigest(), 'seed': seed, 'checked': {}}
  if (place / _STATE).exists():
    old = json.loads((place / _STATE).read_text())
    if old['content'] != state['content']:
      raise errors.UsageError(
        f'{place} holds a build of other images, with another seed '
        f'({old["seed"]}, not {seed}), or with --any_checksum where now it is '
        'without or the reverse: give the same, or remove that folder'
      )
    state = old
  place.mkdir(parents=True, exist_ok=True)
  durable.write(place / _STATE, json.dumps(state).encode())
  for part in place.glob('*.part'):
    part.unlink()  # no other process writes while the lock is held
  return state


def _check(
  archives: dict[str, pathlib.Path],
  place: pathlib.Path,
  state: dict[str, Any],
  shown: screen.Screen,
) -> None:
  """Compares the archives' checksums, but for those that were compared before.

  Raises:
    UsageError: One is not the published one.
  """
  for split, path in archives.items():
    stat = path.stat()
    stamp = [stat.st_size, stat.st_mtime_ns]
    if state['checked'].get(split) == stamp:
      continue
    shown.line(f'checking the MD5 of {path} ({stat.st_size / 1e9:.1f} GB)')
    downloads.verify(
      imagenet_tars.PUBLISHED[split],
      epath.Path(path),
      'Fetch it again, or give any_checksum',
    )
    state['checked'][split] = stamp
    durable.write(place / _STATE, json.dumps(state).encode())


def _written(
  place: pathlib.Path,
  planned: dict[str, list[shards.Shard]],
  mapped: shards.Mapped,
  shown: screen.Screen,
) -> dict[str, str]:
  """Writes the shards that are not there; returns the digests of all, by name.

  Raises:
    UsageError: There is too little room.
  """
  every = [shard for listed in planned.values() for shard in listed]
  missing = [shard for shard in every if not os.path.exists(shard.path)]
  sizes = {
    os.path.basename(shard.path): sum(row.size for row in shard.rows)
    for shard in missing
  }
  needed, free = sum(sizes.values()) * _SPARE, shutil.disk_usage(place).free
  if needed > free:
    raise errors.UsageError(
      f'{place} needs {needed / 1e9:.1f} GB more, and its disk has '
      f'{free / 1e9:.1f} GB free: free some, or give another data_dir'
    )
  if len(missing) < len(every):
    shown.line(f'{len(every) - len(missing)} of {len(every)} shards are there')
  found, done, began = {}, 0, time.monotonic()
  for written in mapped(shards.write, missing):
    found[written.name] = written.digest
    for name in written.encoded:
      shown.line(f'{name} is no RGB or grey JPEG; it is encoded as one')
    done += sizes[written.name]
    spent = time.monotonic() - began
    left = spent * (sum(sizes.values()) / done - 1)
    shown.progress(
      f'{len(every) - len(missing) + len(found)} of {len(every)} shards, '
      f'{done / spent / 1e6:.0f} MB/s, {left / 60:.0f} min left'
    )
  earlier = {
    name: shard.path
    for shard in every
    if (name := os.path.basename(shard.path)) not in found
  }
  return {**digests.of_files(earlier, str(place), say=shown.line), **found}


def _finish(
  place: pathlib.Path,
  planned: dict[str, list[shards.Shard]],
  classes: tuple[str, ...],
  found: dict[str, str],
) -> None:
  """Writes what tfds needs to know, and gives the folder its final name."""
  sizes = {name: (place / name).stat().st_size for name in found}
  template = tfds.core.ShardedFileTemplate(
    dataset_name=NAME, data_dir=place, filetype_suffix='array_record'
  )
  infos = [
    tfds.core.SplitInfo(
      name=split,
      shard_lengths=[len(shard.rows) for shard in listed],
      num_bytes=sum(sizes[os.path.basename(shard.path)] for shard in listed),
      filename_template=template.replace(split=split),
    )
    for split, listed in planned.items()
  ]
  with contextlib.redirect_stdout(None):
    tfds.folder_dataset.write_metadata(
      data_dir=place,
      features=shards.features(classes),
      split_infos=infos,
      version=VERSION,
      check_data=False,
      supervised_keys=('image', 'label'),
      homepage='https://image-net.org/',
    )
  files = {p.name: p for p in place.glob('*.labels.txt')}
  every = {**found, **digests.of_files(files, str(place))}
  stated = {
    name: [(place / name).stat().st_size, digest]
    for name, digest in sorted(every.items())
  }
  durable.write(
    place / identity.DIGESTS, (json.dumps(stated, indent=1) + '\n').encode()
  )
  durable.sync(place)
  place = place.rename(place.parent / VERSION)
  (place / _STATE).unlink()
