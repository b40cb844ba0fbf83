"""The training loop: it steps, logs, evaluates and saves."""

from collections.abc import Callable, Iterator
import contextlib
import time
from typing import Any

import jax
import numpy as np

from kd_jax import errors
from kd_jax.data import dataset
from kd_jax.distill import build, evaluation, inspect, jitted, step
from kd_jax.runtime import distributed, logging, run_dir, sharding, watchdog
from kd_jax.training import accuracies, points, saving, starved, together
from kd_jax.training import options as options_lib


class Loop:
  """The training of a run, from its newest checkpoint to its last step.

  Attributes:
    state: The training state.
    step: Steps done.
    records: The records of metrics.jsonl.
    clock: The seconds that the run has spent, by purpose.
  """

  def __init__(
    self,
    options: options_lib.LoopOptions,
    parts: build.Parts,
    train: dataset.TrainSet,
    tests: dict[str, dataset.EvalSet],
    frozen: dict[str, Any],
    folder: run_dir.Folder,
    reporter: logging.Reporter,
    dog: watchdog.Watchdog,
    began: float,
    start: step.Start = dict,
    member: together.Member | None = None,
  ):
    """Restores the newest checkpoint, or makes the first state.

    Args:
      options: The loop's options.
      parts: The parts of the run.
      train: The training split.
      tests: The splits to evaluate, by name. If there is a 'val', 'test' is
        evaluated after the last step only.
      frozen: The teachers' variables by name.
      folder: The run's folder.
      reporter: The run's reporter.
      dog: The watchdog, which is told of every finished step.
      began: The time from which 'starting' is counted, by `run_dir.now`.
      start: Returns what the students begin with, by path; see `step.first`.
        It is called where there is no checkpoint.
      member: The run among those that it trains together with, if any.

    Raises:
      UsageError: The checkpoint is beyond the last step of the configuration.
      RunError: Every checkpoint is damaged.
    """
    self.clock = logging.Clock()
    self._compiled: set[tuple[str, int]] = set()
    self._options, self._parts, self._frozen = options, parts, frozen
    self._folder = folder
    self._train, self._tests, self._reporter = train, tests, reporter
    self._watchdog = dog
    self._seed = np.int32(options.seed)
    self._member = member
    steps = member.steps if member else jitted.train_steps
    self._step_fns = {
      phase.name: steps(
        phase.exp, train.batch, parts.mesh, parts.dispatch.ahead
      )
      for phase in parts.phases
    }
    self._counts = {
      split: evaluation.make(parts.exp, test, parts.mesh)
      for split, test in tests.items()
    }
    self._saver = saving.Saver(folder, parts.mesh, reporter.line)
    self._restore(sharding.replicated(parts.mesh), start)
    self._saved_at, self._save_is_due = time.monotonic(), False
    self._meter = points.Meter(options.log_every, options.batch_size)
    self._begins = True  # no record is logged yet
    self._unread: list[tuple[int, step.Terms, Callable[[], bool]]] = []
    self._stop = False  # the processes' joint answer to `should_stop`
    self._device = starved.Device()
    self._stretch: starved.Stretch | None = starved.Stretch()
    self._feeds = train.feeds(self.step)
    self.clock.add('starting', run_dir.now() - began)

  def _restore(self, whole: jax.sharding.Sharding, start: step.Start) -> None:
    """Sets state, step and records, from the folder if it has them."""
    shapes = inspect.example(
      self._parts.source.info.image_size,
      self._options.batch_size,
      self._parts.task,
    )
    batch: Any = {k: np.zeros(x.shape, x.dtype) for k, x in shapes.items()}

    def like(done: int) -> Any:
      return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
        self._parts.state(done),
      )

    state: Any
    state, self.step = self._saver.restore(like)
    phase = self._parts.phase(self.step)
    self._phase = phase.name
    if state is None:
      init = jitted.init(phase.exp, self._parts.mesh)
      state = init(self._seed, self._frozen, batch, start())
    else:
      self._reporter.line(f'resuming at step {self.step}')
    self.state = state
    if self.step > self._parts.total_steps:
      raise errors.UsageError(
        f'{self._saver.folder} is at step {self.step}, beyond the '
        f'{self._parts.total_steps} of this configuration and data; give '
        'another --workdir'
      )
    known, self.records = self._reporter.resume(self.step)
    before = self.records[-1]['wall_s'] if self.records else 0.0
    if known:
      self.clock.resume(self.records[-1] if self.records else {})
      self.clock.add('lost to interruptions', known[-1]['wall_s'] - before)
    self._started = run_dir.now() - before

  def run(self, should_stop: Callable[[], bool]) -> bool:
    """Trains to the last step, and saves.

    Args:
      should_stop: Returns whether to save and stop. It is called before every
        dispatch, in every process.

    Returns:
      Whether the last step is done; if not, the state is saved.

    Raises:
      RunError: A loss is not finite, or the last state cannot be saved.
    """
    total, most = self._parts.total_steps, self._parts.dispatch.steps
    with contextlib.ExitStack() as ending:
      ending.callback(self._reporter.flush)
      ending.enter_context(self._reporter.watched())
      ending.callback(self._saver.close)
      ending.callback(self._feeds.close)
      ending.callback(self._device.close)
      self._record_again()
      while self.step < total and not self._stop:
        stop = self._next_stop()
        count = most if self.step + most <= stop else 1
        self._dispatch(count, should_stop())
        if self.step == stop:
          self._at_stop()
        self._check_save()
      if self._stop and self.step < total:
        point = self._read(at_stop=True)
        if self._meter.count:
          self._record({}, point)
        self._save()
      self._complete_save()
    if self.step == total:
      self._reporter.line(f'time {self.clock.text()}')
    return self.step == total

  def _period(self, every: float) -> int:
    return max(1, round(every * self._parts.steps_per_epoch))

  def _due(self, every: float) -> bool:
    """Returns whether the last step ended a period of `every` epochs."""
    last = self.step == self._parts.total_steps
    return last or self.step % self._period(every) == 0

  def _next_stop(self) -> int:
    """Returns the next step at which to log, evaluate, save or change phase."""
    options = self._options
    every = {1.0, options.eval_every, options.checkpoint_every}
    periods = [self._period(e) for e in every]
    stops = [(self.step // period + 1) * period for period in periods]
    return min(*stops, self._parts.phase(self.step).last)

  def _dispatch(self, count: int, asked_to_stop: bool) -> None:
    """Starts `count` steps, then reads the previous dispatch's scalars."""
    feeds = self._next_feeds(count)
    phase = self._parts.phase(self.step).name
    known = (phase, count) in self._compiled
    self._compiled.add((phase, count))
    what = 'training' if known else 'compiling'
    with self._spent(what):
      self.state, terms = self._step_fns[phase](
        self._seed,
        self.state,
        self._frozen,
        self._train.arrays,
        sharding.join(
          jax.tree.map(lambda *xs: np.stack(xs), *feeds), self._parts.mesh, 1
        ),
      )
      self._device.works_on(terms)
      answer = distributed.poll(asked_to_stop, after=terms)
    if self._member:
      self.clock.move(self._member.waited, what, together.WAITING)
    with self.clock.spent('training'):
      self._read()
    self._unread.append((self.step, terms, answer))
    self.step += count
    self._check_input()

  def _next_feeds(self, count: int) -> list[dataset.Feed]:
    """Returns the feeds of the next `count` steps.

    Waiting counts as training while the devices still work.
    """
    began = time.monotonic()
    feeds = [next(self._feeds) for _ in range(count)]
    now = time.monotonic()
    idle = self._device.idle(began, now)
    self.clock.add('waiting for data', idle)
    self.clock.add('training', now - began - idle)
    return feeds

  def _check_input(self) -> None:
    """Warns once in a run if the devices wait too much for data."""
    if self._stretch is None:
      return
    share = self._stretch.share(self.clock.seconds)
    if share > starved.MOST:
      self._stretch = None
      if not distributed.is_first():
        return  # only process 0 prints
      self._reporter.line(starved.text(share))

  @contextlib.contextmanager
  def _spent(self, what: str) -> Iterator[None]:
    """Returns a context manager that times an activity and shows its name."""
    if what != 'training':  # which shows figures
      total = self._parts.total_steps
      self._reporter.progress(f'step {self.step}/{total} | {what}')
    with self.clock.spent(what):
      yield

  def _training_s(self) -> float:
    """Returns the seconds spent on training, from any zero."""
    others = ('compiling', 'evaluating', 'saving', together.WAITING)
    return time.monotonic() - sum(
      self.clock.seconds.get(what, 0.0) for what in others
    )

  def _read(self, *, at_stop: bool = False) -> dict[str, float]:
    """Reads the scalars of the dispatches that were started; logs their points.

    Args:
      at_stop: Whether a point at the last step is returned and not logged.

    Returns:
      The values of that point; {} if there is none.

    Raises:
      RunError: A scalar is not finite.
    """
    made: list[points.Point] = []
    for first, terms, answer in self._unread:
      values = {name: np.asarray(value) for name, value in terms.items()}
      self._stop = answer() or self._stop
      if bad := logging.first_bad(values, first):
        at, name, value = bad
        raise errors.RunError(
          self._saver.failure(f'step {at}: {name} is {value}')
        )
      made += self._meter.add(first, values, self._training_s())
      self._watchdog.beat(f'step {first + len(values["total"])}')
      texts = (
        f'step {self.step}/{self._parts.total_steps}',
        self._meter.speed(self._parts.total_steps - self.step),
        logging.accuracy_text(self.records, *self._parts.task.headline),
        logging.losses_text({k: v[-1] for k, v in values.items()}),
      )
      self._reporter.progress(' | '.join(filter(None, texts)))
    self._unread = []
    for point in made:
      if at_stop and point.step == self.step:
        return point.values
      logged = {**self._when(point.step), **point.values}
      self._reporter.point(point.step, logged)
    return {}

  def _when(self, step: int) -> dict[str, float]:
    return {
      'epoch': step / self._parts.steps_per_epoch,
      'wall_s': round(run_dir.now() - self._started, 3),
    }

  def _at_stop(self) -> None:
    with self.clock.spent('training'):
      point = self._read(at_stop=True)
    found: dict[str, float] = {}
    if self._due(self._options.eval_every):
      with self._spent('evaluating'):
        found = self._evaluate()
      self._watchdog.beat(f'the evaluation of step {self.step}')
    self._record(found, point)
    self._next_phase()
    self._save_is_due |= self._due(self._options.checkpoint_every)
    if self._save_is_due and self._may_save():
      self._save()

  def _may_save(self) -> bool:
    """Returns whether the last checkpoint is old enough, in any process."""
    least = self._options.checkpoint_seconds
    if not least or self.step == self._parts.total_steps:
      return True
    is_old = time.monotonic() - self._saved_at >= least
    return distributed.poll(is_old, after=self.state)()

  def _next_phase(self) -> None:
    """Reinitialises the optimizer if a phase begins."""
    phase = self._parts.phase(self.step)
    if phase.name == self._phase:
      return
    self._phase = phase.name
    optimizer_init = jitted.optimizer_init(phase.exp, self._parts.mesh)
    self.state = self.state.replace(opt_state=optimizer_init(self.state.params))
    phase_text = f'phase {phase.name}' if phase.name else 'the last phase'
    self._reporter.line(f'step {self.step}: {phase_text} begins')

  def _evaluate(self) -> dict[str, float]:
    """Returns what `accuracies.measured` does, of the splits that are due."""
    last = self.step == self._parts.total_steps
    due = {
      split: test
      for split, test in self._tests.items()
      if split != 'test' or 'val' not in self._tests or last
    }
    return accuracies.measured(
      self._parts,
      due,
      self._counts,
      self._options.eval_batch_size,
      self.state,
      self._frozen,
      self._watchdog.beat,
    )

  def _record(self, found: dict[str, float], point: dict[str, float]) -> None:
    """Logs the means since the last record, and what is given.

    Args:
      found: The accuracies.
      point: The values of a point at this step.
    """
    figures, means = self._meter.take()
    record = {
      **self._when(self.step),
      **point,
      **figures,
      **{f'train/{name}': value for name, value in means.items()},
      **found,
      **self.clock.record(),
    }
    self._reporter.record(self.step, record)
    self.records.append({'step': self.step, **record})
    headline = self._parts.task.headline
    trained = means.get(headline.name)
    texts = (
      f'epoch {record["epoch"]:.4g}/{self._parts.epochs}',
      self._meter.speed(self._parts.total_steps - self.step),
      logging.losses_text(means),
      '' if trained is None else f'train {headline.text} {trained:.2f}%',
      logging.accuracy_text(self.records, *headline),
    )
    self._reporter.line(
      ' | '.join(filter(None, texts)),
      important=self._begins or self.step == self._parts.total_steps,
    )
    self._begins = False

  def _record_again(self) -> None:
    """Evaluates and logs the last step, if its record was cut off."""
    done = self.records[-1]['step'] if self.records else 0
    if done < self.step == self._parts.total_steps:
      values = {**self._when(self.step), **self._evaluate()}
      self._reporter.record(self.step, {**values, **self.clock.record()})
      self.records.append({'step': self.step, **values})

  def _save(self) -> None:
    with self._spent('saving'):
      self._saver.save(self.step, self.state)
    self._saved_at, self._save_is_due = time.monotonic(), False

  def _check_save(self) -> None:
    """Reports a failed save at once, and retries it when that is due."""
    if self._saver.is_due_again():
      self._save()

  def _complete_save(self) -> None:
    """Completes the last save, with retries if it fails.

    Raises:
      SaveFailed: Every try failed.
    """
    with self._spent('saving'):
      self._saver.complete(self.step, self.state)
