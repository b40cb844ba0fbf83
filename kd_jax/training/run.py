"""From a configuration and a folder to a finished run."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import functools
from typing import Any, NamedTuple

from etils import epath
from ml_collections import ConfigDict

from kd_jax import config as config_lib
from kd_jax import tasks
from kd_jax.config import roles
from kd_jax.data import resident, source
from kd_jax.distill import averaging, build
from kd_jax.runtime import (
  checkpoint,
  distributed,
  loggers,
  logging,
  run_dir,
  screen,
  watchdog,
)
from kd_jax.training import (
  accuracies,
  datasets,
  facts,
  loop,
  options,
  picture,
  provenance,
  report,
  splits,
  together,
)
from kd_jax.training import start as start_lib
from kd_jax.training import teacher as teacher_lib
from kd_jax.version import __version__


class Progress(NamedTuple):
  """Where a run is when it is about to dispatch steps.

  Attributes:
    folder: The folder of the network that trains: the run's, or that of its
      teacher in the cache.
    step: Steps done.
    total: The number of its last step.
  """

  folder: epath.Path
  step: int
  total: int


class Interrupted(Exception):  # noqa: N818  (this is no error)
  """A request to stop, after which the run is saved and can be resumed."""


def train(
  config: ConfigDict,
  folder: run_dir.Folder,
  label: str = '',
  *,
  should_stop: Callable[[], bool] = lambda: False,
  observe: Callable[[Progress], None] = lambda progress: None,
  shared: bool = False,
  member: together.Member | None = None,
) -> dict[str, Any]:
  """Trains a run to its end, from whatever its folder already has.

  Args:
    config: The configuration of the run.
    folder: The run's folder, which is new or holds this run.
    label: A label that begins every line on the screen.
    should_stop: Returns whether to save and stop. It is called before every
      dispatch, and in a single process while it waits for another run; if it is
      true in any process, all processes stop.
    observe: Called before `should_stop` with where the run is; its teacher's
      training calls it too.
    shared: Whether several runs may want this folder, so that they wait for one
      another.
    member: The run among those that it trains together with, if any.

  Returns:
    The content of result.json.

  Raises:
    UsageError: The configuration cannot run here.
    RunError: The run failed.
    Interrupted: The run was asked to stop.
  """
  try:
    return _train(config, folder, label, should_stop, observe, shared, member)
  except checkpoint.SaveFailed as error:
    if distributed.count() == 1:
      raise
    # The other processes wait for this one, so all of them must restart.
    raise Interrupted(f'{error}; the same command goes on') from error


def _train(
  config: ConfigDict,
  folder: run_dir.Folder,
  label: str,
  should_stop: Callable[[], bool],
  observe: Callable[[Progress], None],
  shared: bool,
  member: together.Member | None,
) -> dict[str, Any]:
  began = run_dir.now()
  folder.set_aside_cut()
  line = member.line if member else None
  reporter = _reporter(config, folder, label, line)
  seeds = member.seeds if member else 1
  parts = distributed.together(lambda: build.build(config, seeds))
  info = parts.source.info
  datasets.check_same(info)
  teacher_lib.check(config, parts, folder)
  start = start_lib.check(config, parts, folder)
  # A run that waits in a meeting keeps its lock: two meetings could wait for
  # one another.
  waits = shared and member is None

  def waiting() -> None:
    # Of several processes only the first waits here, and cannot stop alone.
    if distributed.count() == 1 and should_stop():
      raise Interrupted(
        f'stopped while another run had {folder.path}; the same command goes on'
      )

  with (
    folder.lock(wait=waits, waiting=waiting),
    contextlib.closing(reporter),
  ):
    folder.claim(config_lib.plain(config), info.identity())
    datasets.remember_place(info, folder)
    result = folder.read('result.json')
    if result is not None and result.get('steps') == parts.total_steps:
      if not shared:  # a network that runs share is expected to be there
        distributed.say(
          f'{folder.path} is finished and nothing was trained; give another '
          '--workdir to train again'
        )
      return result
    tests = distributed.together(
      lambda: splits.tests(config, parts, reporter.line)
    )
    teacher_began = run_dir.now()
    frozen, teachers = teacher_lib.obtain(
      config,
      parts,
      folder,
      lambda name: (
        tests.get(name)
        or distributed.together(
          lambda: splits.split(config, parts, reporter.line, name)
        )
      ),
      functools.partial(
        train, should_stop=should_stop, observe=observe, shared=True
      ),
      reporter.line,
    )
    frozen = teacher_lib.folded(parts, frozen)
    teacher_s = run_dir.now() - teacher_began
    reporter.lines(report.opening(config, parts, folder))
    start.keep(folder, reporter.line)
    data = distributed.together(
      lambda: splits.training(config, parts, reporter.line)
    )
    if config.teacher.cache_logits:
      assert isinstance(data, resident.Training)  # `build.build` checks
      data.arrays |= teacher_lib.logits(config, parts, frozen, data)
    if member:
      frozen, data.arrays = member.shared((frozen, data.arrays))
      for test in tests.values():
        test.arrays = member.shared(test.arrays)
    seconds = config.watchdog_seconds
    with watchdog.Watchdog(seconds, 'config.watchdog_seconds') as watch:
      if member:
        member.dog = watch
      run = loop.Loop(
        loop_options(config, parts),
        parts,
        data,
        tests,
        frozen,
        folder,
        reporter,
        watch,
        began + teacher_s,
        start.values,
        member,
      )
      if teachers:
        run.clock.add('teacher', teacher_s)

      def asked() -> bool:
        observe(Progress(folder.path, run.step, parts.total_steps))
        return member.asked(should_stop, run.step) if member else should_stop()

      if not run.run(folder.guarded(asked)):
        raise Interrupted(
          f'saved at step {run.step} of {parts.total_steps} in {folder.path}; '
          'the same command goes on from there'
        )
      result = _finish(config, parts, folder, run, teachers, start.facts)
      reporter.close(result)
      return result


def _reporter(
  config: ConfigDict,
  folder: run_dir.Folder,
  label: str,
  line: screen.Line | None,
) -> logging.Reporter:
  """Returns the run's reporter, with the writers of `config.loggers`."""
  named: dict[str, Any] = {}  # in process 0 alone
  distributed.first(lambda: named.update(loggers.make(config.loggers)))
  tags = {'method': config.method, 'recipe': config.recipe}
  tags['kd_jax'] = __version__
  plain = config_lib.plain(config)
  return logging.Reporter(
    folder, label, named, config=plain, tags=tags, line=line
  )


def loop_options(config: ConfigDict, parts: build.Parts) -> options.LoopOptions:
  """Returns the fields of a configuration that the loop reads."""
  fields = {name: config[name] for name in options.LoopOptions._fields}
  fields['eval_batch_size'] = build.eval_batch_size(config, parts)
  return options.LoopOptions(**fields)


def _finish(
  config: ConfigDict,
  parts: build.Parts,
  folder: run_dir.Folder,
  run: loop.Loop,
  teachers: dict[str, Any],
  begun: dict[str, Any],
) -> dict[str, Any]:
  """Saves the trained networks, writes the result, and returns it."""
  folder.guard()
  student = alone(config, parts.source.info, parts.deployed.groups)
  alone_result = student.read('result.json') if student else None
  # That of fewer epochs must not stand beside the weights of more.
  distributed.first(
    lambda: (folder.path / 'result.json').unlink(missing_ok=True)
  )
  state = run.state
  _save(parts, folder, run.step, '', state.params, state.model_state)
  if state.average:
    averaged = averaging.collections(state.average, state.model_state)
    _save(parts, folder, run.step, f'_{accuracies.EMA}', *averaged)
  return distributed.first(
    lambda: _written(config, parts, folder, run, teachers, begun, alone_result)
  )


def _written(
  config: ConfigDict,
  parts: build.Parts,
  folder: run_dir.Folder,
  run: loop.Loop,
  teachers: dict[str, Any],
  begun: dict[str, Any],
  alone_result: dict[str, Any] | None,
) -> dict[str, Any]:
  """Writes curves.png and result.json, and returns the result.

  Only process 0 calls this.
  """
  deployed = parts.deployed
  metric = parts.task.headline
  name = roles.deployed(config, deployed.groups)
  draw(config, folder, metric, teachers, alone_result, name)
  split_name = 'val' if parts.source.info.num_val else 'test'
  headline = f'{split_name}/{metric.name}'
  measured = [record for record in run.records if headline in record]
  best = max(measured, key=lambda record: record[headline])
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
    'network': roles.student(config, name).name,
    'kept': list(deployed.groups),
    **costs[deployed.name],
    'headline': metric.name,
    **{
      name.removeprefix('test/'): value
      for name, value in last.items()
      if name in ('test/top1', 'test/top5', f'test/{metric.name}')
    },
    f'best_on_{split_name}': best[headline],
    f'best_on_{split_name}_epoch': best['epoch'],
    **facts.averaged(config, last, metric),
    'protocol': splits.protocol(config, parts.task),
    'wall_s': last['wall_s'],
    'time_s': {
      name: round(seconds, 3) for name, seconds in run.clock.seconds.items()
    },
    **facts.of_teachers({n: {**x, **costs[n]} for n, x in teachers.items()}),
    **({'init': begun} if begun else {}),
    **provenance.found(),
  }
  folder.write_alone('result.json', result)
  return result


def alone(
  config: ConfigDict, info: source.Info, groups: Sequence[str]
) -> run_dir.Folder | None:
  """Returns the folder of the student trained alone with the same recipe.

  It returns None where `config.baseline` is 'off', and for the method 'ce',
  which trains alone itself.

  Args:
    config: The configuration of the run.
    info: The facts of its data set.
    groups: The groups whose parameters its prediction reads, by which the
      deployed student is known.
  """
  if config.baseline == 'off' or config.method == 'ce':
    return None
  baseline = config_lib.of_baseline(config, roles.deployed(config, groups))
  return teacher_lib.cache_folder(baseline, info, 'alone')


def draw(
  config: ConfigDict,
  folder: run_dir.Folder,
  metric: tasks.Metric,
  teachers: Mapping[str, Any],
  alone_result: Mapping[str, Any] | None,
  student: str = 'student',
) -> None:
  """Draws curves.png; only process 0 calls this.

  Args:
    config: The configuration of the run.
    folder: Its folder, which holds metrics.jsonl.
    metric: The headline of its task.
    teachers: The facts of its teachers by name.
    alone_result: The result of the student alone, if it is known.
    student: The name of the deployed student.
  """
  taught = ' and '.join(each['network'] for each in teachers.values())
  networks = ' to '.join(
    filter(None, (taught, roles.student(config, student).name))
  )
  called = {facts.called(name): x for name, x in teachers.items()}
  compared = {**called, 'student alone': alone_result}
  try:
    known = {n: x[metric.name] for n, x in compared.items() if x}
    picture.curves(
      run_dir.Records(folder).read(),
      folder.path / 'curves.png',
      metric,
      f'{config.method}: {networks}, {config.data.name}, seed {config.seed}',
      known,
    )
  except Exception as error:  # the run is worth more than its picture
    distributed.say(f'curves.png is not drawn: {error}')


def _save(
  parts: build.Parts,
  folder: run_dir.Folder,
  step: int,
  suffix: str,
  params: dict[str, Any],
  model_state: dict[str, Any],
) -> None:
  """Saves what the run deploys.

  A network that predicts by itself is saved in 'student', and else what was
  trained of the prediction in 'deployed': the teacher's part is in 'teacher'.

  Args:
    parts: The parts of the run.
    folder: Its folder.
    step: The last step.
    suffix: What the name of the sub-folder ends with.
    params: Parameters by the name of a network, and 'method'.
    model_state: The other collections by the same names.
  """
  groups = parts.deployed.groups
  variables = {
    name: {'params': params[name], **model_state[name]}
    for name in groups
    if name not in parts.exp.teachers
  }
  if len(groups) == 1:
    place, tree = 'student', variables[groups[0]]
  else:
    place, tree = 'deployed', variables
  checkpoint.save_only(folder.path / f'{place}{suffix}', step, tree)
