"""What `config.teacher.path` names: a run, an export or weights.

The weights that a student begins with, `config.student.init`, are found,
fetched and known by their content as a teacher's are.
"""

from collections.abc import Callable, Iterator
import contextlib
import glob
import hashlib
import pathlib
import re
from typing import Any, NamedTuple
from urllib import parse

from etils import epath
import flax.linen as nn
from ml_collections import ConfigDict
import numpy as np

from kd_jax import config as config_lib
from kd_jax import errors
from kd_jax.data import source
from kd_jax.distill import build
from kd_jax.models.pretrained import contents, convert
from kd_jax.runtime import (
  distributed,
  downloads,
  gcs,
  locks,
  run_dir,
  sharding,
)
from kd_jax.training import classes, imports, origin, restore

_DIGITS = re.compile('[0-9a-fA-F]{8,64}')
_WHOLE = 64  # digits of a SHA-256
_NAME = 50  # the most characters of a URL's file name that are kept


class Keys(NamedTuple):
  """The keys that say where weights are and how they are read.

  Attributes:
    group: The group of the configuration.
    path: The key of the path.
    prefix: What the names of the other keys begin with.
  """

  group: str
  path: str
  prefix: str

  def name(self, key: str) -> str:
    """Returns the whole name of a key, such as 'config.teacher.sha256'."""
    last = self.path if key == 'path' else f'{self.prefix}{key}'
    return f'config.{self.group}.{last}'

  def value(self, config: ConfigDict, key: str) -> Any:
    """Returns the value of a key; its default where a configuration lacks it.

    A student that was named by `config.network` alone has no keys of its init.
    """
    _, group, last = self.name(key).split('.')
    default = config_lib.ADDED.get(f'{group}.{last}')
    return config[group].get(last, default)


TEACHER = Keys('teacher', 'path', '')
INIT = Keys('student', 'init', 'init_')


def digest(config: ConfigDict, keys: Keys = TEACHER) -> str:
  """Returns a digest of what the keys' path holds; '' if it is gone."""
  path = keys.value(config, 'path')
  if downloads.is_url(path):
    return keys.value(config, 'sha256').lower()
  return origin.digest(path, run_dir.cache_root(config.cache_dir))


def read(
  config: ConfigDict,
  path: str,
  network: nn.Module,
  parts: build.Parts,
  say: Callable[[str], None] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads the variables of a run, an export or a file of PyTorch weights.

  The outputs are in the order of the data's classes.

  Args:
    config: The configuration of the run.
    path: The path or the URL.
    network: The teacher.
    parts: The parts of the run.
    say: A function that prints what of a file was taken and what was left.

  Returns:
    The variables, and the fields of the run's result, of which a file of
    weights has none; with 'notes' for the user, if there are any.
  """
  info, replicated = parts.source.info, sharding.replicated(parts.mesh)
  seen = config.teacher.image_size or info.image_size
  notes = []
  if is_file(path):
    weights_file = file(config)
    with about(path), errors.keys('config.teacher.'):
      weights = convert.load(network, weights_file, config.teacher.key, say)
    variables = sharding.put(weights, replicated)
    names, result = None, {}
  elif config.teacher.key:
    raise errors.UsageError(
      f'config.teacher.key={config.teacher.key!r}: it is for a file of '
      f"weights, and config.teacher.path={path!r} is none; give ''"
    )
  else:
    with about(path), errors.keys(allow_imports=TEACHER.name('allow_imports')):
      trained = restore.load(path, parts.mesh, allowed(config, path))
      variables = restore.variables(
        trained, network, len(info.class_names), seen
      )
      _check_normalisation(config, info, trained.facts)
    names, size = (trained.facts[key] for key in ('class_names', 'image_size'))
    result = trained.facts.get('result', {})
    if size != seen:
      notes.append(
        f'it was trained on images of {size} pixels, and sees {seen} here'
      )
  with about(path), errors.keys('config.teacher.'):
    met = classes.match(names, info.class_names, config.teacher.class_names)
    if met.order is not None:
      variables = sharding.put(
        classes.ordered(network, variables, met.order, seen),
        replicated,
      )
  notes += filter(None, [met.note])
  return variables, {**result, 'notes': notes} if notes else result


def allowed(config: ConfigDict, path: str) -> imports.Allowed:
  """Returns which import paths of the teacher's run may be imported.

  They are those that this run's configuration names itself, and all of a run
  that trained the teacher for this one.
  """
  if config.teacher.allow_imports or path != config.teacher.path:
    return True
  return (config.teacher.name, config.student.name, config.method)


def is_file(path: str) -> bool:
  """Returns whether a path is that of a file of weights, or a URL."""
  return downloads.is_url(path) or contents.is_weights(
    epath.Path(path).expanduser()
  )


@contextlib.contextmanager
def about(path: str, keys: Keys = TEACHER) -> Iterator[None]:
  """Puts the key and the path before the message of a UsageError."""
  try:
    yield
  except errors.UsageError as error:
    raise errors.UsageError(
      f'{keys.name("path")}={errors.public(path)!r}: {error}'
    ) from error


def file(config: ConfigDict, keys: Keys = TEACHER) -> epath.Path:
  """Returns the file of weights, downloaded if need be.

  Its SHA-256 is checked if the key sha256 is set. A file by URL needs
  all of its digits: a file with the same first 8 is made in minutes.

  Raises:
    UsageError: The key sha256 is invalid, or lacks digits for a URL;
      the message has the digits of what the URL gives.
  """
  path, digits = (keys.value(config, key) for key in ('path', 'sha256'))
  sha256 = keys.name('sha256')
  wanted = downloads.Published(path, 'sha256', digits)
  with about(path, keys):
    if digits and not _DIGITS.fullmatch(digits):
      raise errors.UsageError(
        f'{sha256}={digits!r}: give its 64 hexadecimal digits, or '
        'the first 8 or more of a file at home'
      )
    if downloads.is_url(path):
      return _downloaded(config, wanted, sha256)
    if gcs.is_bucket(path):
      raise errors.UsageError(
        'weights are read from a disk, or fetched by https:// or http://'
      )
    place = epath.Path(path).expanduser()
    if digits and place.exists():
      downloads.verify(wanted, place, f'See {sha256}')
  return place


def _downloaded(
  config: ConfigDict, wanted: downloads.Published, sha256: str
) -> epath.Path:
  name = pathlib.PurePosixPath(parse.urlsplit(wanted.url).path).name
  if not name.lower().endswith(contents.SUFFIXES):
    raise errors.UsageError(
      f'a URL names a file of weights ({", ".join(contents.SUFFIXES)}); fetch '
      'a run or an export, and give its folder'
    )
  folder = run_dir.cache_root(config.cache_dir) / 'downloads'
  if gcs.is_bucket(folder):  # a download into a bucket cannot resume
    folder = epath.Path('~/.cache/kd_jax/downloads').expanduser()
  with contextlib.suppress(OSError):  # `locks.hold` raises a better error
    folder.mkdir(parents=True, exist_ok=True)
  with locks.hold(folder / '.lock', wait=True):
    return _verified(wanted, folder, name[-_NAME:], sha256)


def _verified(
  wanted: downloads.Published, folder: epath.Path, name: str, sha256: str
) -> epath.Path:
  """Returns the file of a URL in the folder of downloads, with its checksum.

  Raises:
    UsageError: It cannot be downloaded, it is another file, or the checksum
      lacks digits.
  """
  cure = 'Fetch it yourself, and give its path'
  digits = wanted.checksum.lower()
  if len(digits) < _WHOLE:
    url = hashlib.sha256(errors.public(wanted.url).encode()).hexdigest()
    place = folder / f'unchecked-{url[:16]}-{name}'
    if not place.exists():
      unknown = wanted._replace(checksum='')
      downloads.fetch(unknown, place, cure, distributed.say)
    raise errors.UsageError(
      f'{sha256}={digits!r}: a file by URL needs all {_WHOLE} '
      f'digits of its SHA-256, and the file there has {downloads.digest(place)}'
      ': set it to these once they are what its publisher says'
    )
  place = folder / f'{digits[:8]}-{name}'
  for unchecked in folder.glob(f'unchecked-*-{glob.escape(name)}'):
    if downloads.digest(unchecked) == digits:
      unchecked.replace(place)
  if not place.exists() or downloads.digest(place) != digits:
    downloads.fetch(wanted, place, cure, distributed.say)
  return place


def _check_normalisation(
  config: ConfigDict, info: source.Info, facts: dict[str, Any]
) -> None:
  """Checks that the teacher sees images as it saw them in its training.

  Raises:
    UsageError: The run has another mean or standard deviation.
  """
  for key, data_value in (('mean', info.mean), ('std', info.std)):
    used = config.teacher[key] or data_value
    if not np.allclose(used, facts[key], atol=1e-4):
      raise errors.UsageError(
        f'it was trained with {key} {tuple(facts[key])}, and here it would see '
        f'images with {tuple(used)}: set config.teacher.{key}='
        f'{tuple(facts[key])}'
      )
