"""What the files of a finished run say of it."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from kd_jax import config as config_lib
from kd_jax import errors, tasks
from kd_jax.config import roles
from kd_jax.data import source
from kd_jax.runtime import run_dir
from kd_jax.training import accuracies

# The fields of a run's `config.data` and of its result that an export has.
_DATA = ('name', 'train_size', 'val_fraction', 'image_size')
_RESULT = (
  'method', 'seed', 'epochs', 'train_images', 'protocol', 'best_on_test',
  'best_on_val', 'wall_s', 'commit',
)  # fmt: skip


def read(
  folder: run_dir.Folder, *, ema: bool = False
) -> tuple[ConfigDict, source.Info, dict[str, Any]]:
  """Returns a finished run's configuration, the facts of its data, its facts.

  Args:
    folder: The folder of the run.
    ema: Whether the accuracies are those of its averaged parameters.

  Returns:
    The configuration, the facts of its data set, and what network.json has of
    an export of the run.

  Raises:
    UsageError: This version cannot read the run's files, or the run averaged
      nothing.
  """
  try:
    stored, result = folder.read('config.json'), folder.read('result.json')
    if ema:
      result = _of_average(folder, result)
    info = source.Info(**stored.pop('data_facts'))
    info = info._replace(**(folder.read('data.json') or {}))
    # A run of an older version lacks keys that were added since.
    config = config_lib.completed(ConfigDict(stored))
    facts = _facts(config, info, result)
    if ema:
      facts['result']['ema'] = result['decay']
    return config, info, facts
  except errors.UsageError:
    raise
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise errors.UsageError(
      f'{folder.path} is no run that this kd_jax can read: '
      f'{type(error).__name__}: {error}'
    ) from error


def _of_average(
  folder: run_dir.Folder, result: dict[str, Any]
) -> dict[str, Any]:
  """Returns a result with the accuracies of the averaged parameters."""
  if 'ema' not in result:
    raise errors.ArgumentError(
      f'ema=True: {folder.path} has no averaged parameters, since its '
      'config.ema was 0; leave it out, or train with an average'
    )
  figures = dict(result['ema'])
  kept = {k: v for k, v in result.items() if not k.startswith('best_on_')}
  return {**kept, **figures}


def _facts(
  config: ConfigDict, info: source.Info, result: dict[str, Any]
) -> dict[str, Any]:
  """Returns a run's facts, as network.json has them."""
  images, name = result['test_images'], tasks.headline(result).name
  protocol = config.data.get('eval_protocol', 'square')
  is_counted = name == 'top1'  # an image is right or wrong
  student = roles.student(config, roles.deployed(config, result['kept']))
  taught = {n: x.get('network') for n, x in teachers(result).items()}
  return {
    'network': student.name,
    'network_args': student.args.to_dict(),
    'dtype': config.dtype,
    'image_size': info.image_size,
    'mean': list(info.mean),
    'std': list(info.std),
    'class_names': list(info.class_names),
    'kept': result['kept'],
    'parameters': result['params'],
    'flops': result['flops'],
    **({'task': info.task} if info.task != 'classification' else {}),
    'accuracy': {
      'data': info.name,
      'split': 'test',
      'images': images,
      **({'correct': round(result[name] * images / 100)} if is_counted else {}),
      **{key: result[key] for key in (name, 'top5') if key in result},
      **({'protocol': protocol} if protocol != 'square' else {}),
    },
    'data': {
      **{key: config.data[key] for key in _DATA},
      **({'fingerprint': info.fingerprint} if info.fingerprint else {}),
      **({'place': info.place} if info.place else {}),
    },
    'result': {key: result[key] for key in _RESULT if key in result},
    'teacher': taught.pop('teacher', None),
    **({'teachers': taught} if taught else {}),
  }


def teachers(result: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the facts of each teacher of a run, by name.

  Args:
    result: The content of its result.json: 'teacher' is the one of a method
      that has one, and 'teachers' has those with names of their own.
  """
  only = result.get('teacher')
  return {**({'teacher': only} if only else {}), **result.get('teachers', {})}


def called(name: str) -> str:
  """Returns what lines call a teacher: 'teacher', or 'teacher a'."""
  return name if name == run_dir.TEACHER else f'teacher {name}'


def of_teachers(teachers: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what a result has of teachers; the inverse of `teachers`."""
  others = {n: x for n, x in teachers.items() if n != run_dir.TEACHER}
  only = teachers.get(run_dir.TEACHER)
  return {'teacher': only, **({'teachers': others} if others else {})}


def averaged(
  config: ConfigDict, last: Mapping[str, Any], metric: tasks.Metric
) -> dict[str, Any]:
  """Returns 'ema' of result.json, if there is an average: its accuracies."""
  if not config.ema:
    return {}
  names = {key: f'test/{accuracies.EMA}/{key}' for key in (metric.name, 'top5')}
  figures = {key: last[name] for key, name in names.items() if name in last}
  return {'ema': {'decay': config.ema, **figures}}
