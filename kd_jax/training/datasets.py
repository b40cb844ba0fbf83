"""The data of trained networks, opened to measure them; data of processes."""

from typing import Any

from etils import epath

from kd_jax import data, errors
from kd_jax.data import registry, source
from kd_jax.export import artifact
from kd_jax.runtime import digests, distributed, run_dir
from kd_jax.training import imports


def open_data(
  found: artifact.Trained,
  name: str = '',
  data_dir: str = '',
  allow_imports: imports.Allowed = False,
) -> source.Source:
  """Opens a data set at the image size of a trained network.

  Args:
    found: The trained network.
    name: The name, as in `config.data.name`; '' is the data set that the
      network was trained on.
    data_dir: The folder of prepared data sets; '' is the default.
    allow_imports: Whether the data set that the network was trained on may be
      an import path; see `imports`.

  Raises:
    UsageError: The data set is not available, has another number of classes,
      or would be code that is not allowed.
  """
  facts, size = found.facts, found.facts['image_size']
  options = facts['data'] if not name else {}
  # The network normalises its images itself, whatever data they are of.
  normalised = {key: tuple(facts.get(key, ())) for key in ('mean', 'std')}
  if not name:
    whose = 'what was trained'
    imports.check({'data.name': options['name']}, allow_imports, whose)
    name, data_dir = _found_again(options, data_dir)
  opened = open_named(
    name,
    size,
    data_dir,
    train_size=options.get('train_size', 0),
    val_fraction=options.get('val_fraction', 0.0),
    **normalised,
  )
  data_classes, network_classes = (
    len(opened.info.class_names),
    len(facts['class_names']),
  )
  if data_classes != network_classes:
    raise errors.UsageError(
      f'{name} has {data_classes} classes, and the network {network_classes}: '
      'they cannot be compared'
    )
  return opened


def _found_again(options: dict[str, Any], data_dir: str) -> tuple[str, str]:
  """Returns the name of the data of a run, and the folder of prepared data.

  The place where the data were in the training comes before what has the name
  seen from here, which may be something else.

  Args:
    options: The facts of the data.
    data_dir: The folder that the caller gave, which comes before all.

  Raises:
    UsageError: The data are in neither place.
  """
  name, place = options['name'], options.get('place', '')
  kind, _, path = name.partition(':')
  if f'{kind}:' not in registry.PLACES:
    is_there = place and not data_dir and epath.Path(place).is_dir()
    return name, place if is_there else data_dir
  if place and epath.Path(place).exists():
    return f'{kind}:{place}', data_dir
  if not epath.Path(path).expanduser().exists():
    where = f' or at {place}, where they were in its training' if place else ''
    raise errors.ArgumentError(
      f'data={name!r}, on which it was trained, are not here'
      f'{where}: give their place'
    )
  return name, data_dir


def changed(found: artifact.Trained, opened: source.Source) -> str:
  """Returns a line if data have changed since a training on them, else ''.

  Args:
    found: The trained network.
    opened: Its data, as `open_data` returns them without a name.
  """
  info = opened.info
  was, now = found.facts['data'].get('fingerprint', ''), info.fingerprint
  if not was or was == now:
    return ''
  why = digests.changed(was, now, run_dir.cache_root(''))
  return f'{info.name} has changed since the network was trained on it' + (
    f': {why}' if why else f' (fingerprint {was}, now {now})'
  )


def open_named(
  name: str, image_size: int, data_dir: str = '', **parts: Any
) -> source.Source:
  """Opens a data set by name, with images of a given size.

  Args:
    name: The name, as in `config.data.name`.
    image_size: Height and width in pixels; 0 is the data set's.
    data_dir: The folder of prepared data sets; '' is the default.
    **parts: Other arguments of `data.open_source`.

  Raises:
    UsageError: The data set is not available.
  """
  if not name:
    raise errors.UsageError('--data is missing: weights do not name their data')
  small = name == 'digits'  # its images have 8 pixels and are scaled later
  opened = data.open_source(
    name, image_size=0 if small else image_size, data_dir=data_dir, **parts
  )
  if not image_size:
    return opened
  info = opened.info._replace(image_size=image_size)
  return source.Source(info, opened.split, opened.notes)


def check_same(info: source.Info) -> None:
  """Raises UsageError in all processes if they see other data."""
  prints = distributed.gather(info.fingerprint)
  if other := [i for i, found in enumerate(prints) if found != prints[0]]:
    raise errors.UsageError(
      f'process {other[0]} sees other images or labels as {info.name} than '
      f'process 0 (fingerprints {prints[other[0]]!r} and {prints[0]!r}): give '
      'all machines the same data'
    )


def remember_place(info: source.Info, folder: run_dir.Folder) -> None:
  """Writes where a run's data are, so that it finds them from anywhere."""
  place = {'place': info.place}

  def write():
    if info.place and folder.read_alone('data.json') != place:
      folder.write_alone('data.json', place)

  distributed.first(write)
