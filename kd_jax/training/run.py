"""From a configuration and a folder to a finished run."""

from collections.abc import Callable
import functools
import importlib.metadata
import platform
import subprocess
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict

from kd_jax import config as config_lib
from kd_jax.data import augment, dataset, resident, stream
from kd_jax.distill import build
from kd_jax.runtime import checkpoint, distributed, logging, run_dir, watchdog
from kd_jax.training import loop, report
from kd_jax.training import teacher as teacher_lib
from kd_jax.version import __version__


class Interrupted(Exception):  # noqa: N818  (it is no error)
  """The run was asked to stop; it is saved, and the same command goes on."""


def train(
  config: ConfigDict,
  folder: run_dir.Folder,
  label: str = '',
  *,
  should_stop: Callable[[], bool] = lambda: False,
  shared: bool = False,
) -> dict[str, Any]:
  """Trains until the run is finished, from wherever its folder stands.

  Args:
    config: of the run.
    folder: of the run, new or its own.
    label: begins every line on the screen.
    should_stop: asked before every step; whether to save and stop. Where any
      process says so, all do.
    shared: several runs may want this folder; wait for one another.

  Returns:
    What result.json holds.

  Raises:
    UsageError: for a configuration that cannot run here.
    RunError: for a run that went wrong.
    Interrupted: where it was asked to stop.
  """
  try:
    return _train(config, folder, label, should_stop, shared)
  except checkpoint.SaveFailed as error:
    if distributed.count() == 1:
      raise
    # The others wait for this process; all must start again.
    raise Interrupted(f'{error}; the same command goes on') from error


def _train(
  config: ConfigDict,
  folder: run_dir.Folder,
  label: str,
  should_stop: Callable[[], bool],
  shared: bool,
) -> dict[str, Any]:
  began = run_dir.now()
  parts = distributed.together(lambda: build.build(config))
  teacher_lib.check(config, parts, folder)
  reporter = logging.Reporter(folder, label)
  with folder.lock(wait=shared, say=print):
    folder.claim(config_lib.plain(config), parts.source.info.identity())
    result = folder.read('result.json')
    if result is not None and result['steps'] == parts.total_steps:
      return result
    tests = distributed.together(lambda: _tests(config, parts, reporter.line))
    asked = run_dir.now()
    frozen, teacher = teacher_lib.obtain(
      config,
      parts,
      folder,
      lambda name: (
        tests.get(name)
        or distributed.together(
          lambda: split(config, parts, reporter.line, name)
        )
      ),
      functools.partial(train, should_stop=should_stop, shared=True),
      reporter.line,
    )
    frozen = teacher_lib.folded(parts, frozen)
    taught = run_dir.now() - asked
    reporter.line(report.opening(config, parts, folder))
    data = distributed.together(lambda: training(config, parts, reporter.line))
    if config.teacher.cache_logits:
      assert isinstance(data, resident.Training)  # `build.build` sees to it
      data.arrays |= teacher_lib.logits(config, parts, frozen, data)
    with watchdog.Watchdog(config.watchdog_seconds) as dog:
      run = loop.Loop(
        loop_options(config),
        parts,
        data,
        tests,
        frozen,
        folder,
        reporter,
        dog,
        began + taught,
      )
      if teacher:
        run.clock.add('teacher', taught)
      if not run.run(folder.guarded(should_stop)):
        raise Interrupted(
          f'saved at step {run.step} of {parts.total_steps} in {folder.path}; '
          'the same command goes on from there'
        )
      return _finish(config, parts, folder, run, teacher)


def loop_options(config: ConfigDict) -> loop.LoopOptions:
  """Returns what the loop reads of a configuration."""
  return loop.LoopOptions(
    **{name: config[name] for name in loop.LoopOptions._fields}
  )


def _tests(
  config: ConfigDict, parts: build.Parts, say: Callable[[str], None]
) -> dict[str, dataset.EvalSet]:
  """The splits to evaluate, by name."""
  info = parts.source.info
  counts = {'val': info.num_val, 'test': info.num_test}
  return {
    name: split(config, parts, say, name)
    for name, count in counts.items()
    if count
  }


def split(
  config: ConfigDict, parts: build.Parts, say: Callable[[str], None], name: str
) -> dataset.EvalSet:
  """A split to evaluate: on the device where it fits, else streamed."""
  info = parts.source.info
  if build.resident(config, info, name):
    return resident.Resident(parts.source.arrays(name, say), info, parts.mesh)
  return stream.Streamed(
    parts.source.split(name), info, parts.mesh, workers=config.data.workers
  )


def training(
  config: ConfigDict, parts: build.Parts, say: Callable[[str], None]
) -> dataset.TrainSet:
  """The training split: on the device where it fits, else streamed."""
  info, given = parts.source.info, config.data
  crop = given.augment == 'random_resized_crop'
  padding = 0 if crop else given.crop_padding
  crop_flip = augment.CropFlip(padding, given.padding_mode, given.flip)
  common: dict[str, Any] = {
    'batch_size': config.batch_size,
    'seed': config.seed,
    'crop_flip': crop_flip,
  }
  if not crop and build.resident(config, info, 'train'):
    arrays = parts.source.arrays('train', say)
    return resident.Training(arrays, info, parts.mesh, **common)
  return stream.Streamed(
    parts.source.split('train'),
    info,
    parts.mesh,
    workers=given.workers,
    steps=parts.total_steps,
    area=tuple(given.area) if crop else (),
    **common,
  )


def _finish(
  config: ConfigDict,
  parts: build.Parts,
  folder: run_dir.Folder,
  run: loop.Loop,
  teacher: dict[str, Any] | None,
) -> dict[str, Any]:
  """Saves the trained network, and writes the picture and the result."""
  folder.guard()
  kept = parts.deployed
  if len(kept.groups) == 1:  # a network that stands alone
    variables = _variables(run, kept.groups[0])
    checkpoint.save_only(folder.path / 'student', run.step, variables)
  else:  # the teacher's part stands in teacher/
    own = [name for name in kept.groups if name not in parts.exp.teachers]
    variables = {name: _variables(run, name) for name in own}
    checkpoint.save_only(folder.path / 'deployed', run.step, variables)
  return distributed.first(
    lambda: _written(config, parts, folder, run, teacher)
  )


def _written(
  config: ConfigDict,
  parts: build.Parts,
  folder: run_dir.Folder,
  run: loop.Loop,
  teacher: dict[str, Any] | None,
) -> dict[str, Any]:
  """What process 0 writes at the end: the picture and the result."""
  kept = parts.deployed
  report.curves(run.records, folder.path / 'curves.png')
  chosen = 'val' if parts.source.info.num_val else 'test'
  measured = [r for r in run.records if f'{chosen}/top1' in r]
  best = max(measured, key=lambda r: r[f'{chosen}/top1'])
  last = run.records[-1]
  costs = report.costs(parts)
  result = {
    'method': config.method,
    'data': config.data.name,
    'train_images': parts.source.info.num_train,
    'test_images': int(last['test/images']),
    'seed': config.seed,
    'epochs': parts.epochs,
    'steps': parts.total_steps,
    'network': config.student.name,
    'kept': list(kept.groups),
    **costs[kept.name],
    'top1': last['test/top1'],
    'top5': last['test/top5'],
    f'best_on_{chosen}': best[f'{chosen}/top1'],
    f'best_on_{chosen}_epoch': best['epoch'],
    'protocol': 'last epoch',
    'wall_s': last['wall_s'],
    'time_s': {k: round(v, 3) for k, v in run.clock.seconds.items()},
    'teacher': teacher and {**teacher, **costs['teacher']},
    **provenance(),
  }
  folder.write_alone('result.json', result)
  return result


def _variables(run: loop.Loop, name: str) -> dict[str, Any]:
  """Parameters and other collections of a network or of the method."""
  return {'params': run.state.params[name], **run.state.model_state[name]}


def provenance() -> dict[str, Any]:
  """Hardware, versions and commit: what a figure must be read with."""
  devices = jax.devices()
  names = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
  return {
    'hardware': f'{len(devices)} x {devices[0].device_kind}',
    'processes': distributed.count(),
    'host': f'{platform.machine()}, {platform.system()}',
    'versions': {
      'python': platform.python_version(),
      'kd_jax': __version__,
      **{name: importlib.metadata.version(name) for name in names},
    },
    'commit': _commit(),
  }


def _commit() -> str:
  """The commit of the checkout that this runs from, or 'unknown'."""
  package = epath.Path(__file__).parent.parent
  if not (package.parent / '.git').exists():
    return 'unknown'  # installed from a wheel
  describe = ['git', 'describe', '--always', '--dirty', '--abbrev=12']
  try:
    found = subprocess.run(
      describe, cwd=package, capture_output=True, text=True, check=False
    )
  except OSError:  # no git on this machine
    return 'unknown'
  return found.stdout.strip() or 'unknown'
