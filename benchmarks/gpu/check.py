"""Checks kd_jax on this device; run.py starts it.

The main job is run, evaluated, exported, and its export predicts. Then runs
with `config.deterministic` are compared with one another, array by array: two
that nothing disturbs, one that SIGTERM stops and the same command goes on with,
and one with another number of steps a dispatch.
"""

from collections.abc import Callable, Sequence
import concurrent.futures
import json
import pathlib
import re
import sys
import threading
import time
from typing import Any

import child
import chunks
import jax
import numpy as np

from kd_jax import errors, trained

_STEPS = 9  # of a dispatch: the embedded recipe's epoch


class Failed(Exception):  # noqa: N818  (it is a check's answer)
  """What a check found wrong."""


class Lab:
  """What the checks share.

  Attributes:
    options: See run.py.
    work: Holds the runs.
    done: The checks that have ended.
    reference: The deterministic run that others are compared with.
  """

  reference: 'concurrent.futures.Future[Any]'

  def __init__(self, options: dict[str, Any], checks: int):
    """Begins the time of the checks.

    Args:
      options: See run.py.
      checks: How many there are.
    """
    self.options, self._checks = options, checks
    self.work = pathlib.Path(options['work']) / 'check'
    self.work.mkdir(exist_ok=True)
    self._last = time.monotonic() + options['seconds']
    self.done: list[dict[str, Any]] = []
    self._lock = threading.Lock()

  def command(
    self,
    name: str,
    arguments: Sequence[str],
    *,
    code: int = 0,
    environment: dict[str, str] | None = None,
    stop: Callable[[], bool] = lambda: False,
  ) -> str:
    """Runs a Python command and returns what it printed.

    Args:
      name: Of its log, which must be new.
      arguments: Of Python.
      code: The exit code that it must have.
      environment: What its environment has beside ours.
      stop: Whether to send SIGTERM now.

    Raises:
      Failed: It ends otherwise, or the time is up.
    """
    log = self.work / f'{name}.log'
    left = self._last - time.monotonic()
    ended = child.run(
      [sys.executable, *arguments],
      left,
      log=log,
      environment=environment,
      grace_s=max(1.0, left),
      stop=stop,
    )
    text = log.read_text('utf-8', errors='replace')
    if time.monotonic() > self._last:
      raise Failed(f'{name}: no time is left')
    if ended.code != code:
      tail = ' | '.join(text.strip().splitlines()[-3:])
      raise Failed(f'{name} ended with {ended.code} and not {code}: {tail}')
    return text

  def train(self, name: str, *more: str, log: str = '', **kwargs: Any) -> Any:
    """Runs the main job in the folder `name`; returns result.json's content."""
    arguments = [
      '-m',
      'kd_jax.main',
      f'--config={self.options["check_config"]}',
      f'--workdir={self.work / name}',
      '--config.baseline=off',
      '--config.checkpoint_every=1.0',
    ]
    if epochs := self.options['check_epochs']:
      arguments += [
        f'--config.epochs={epochs}',
        f'--config.teacher.recipe.epochs={epochs}',
        '--config.teacher.expected_top1=0.0',
      ]
    arguments += more
    self.command(log or name, arguments, **kwargs)
    path = self.work / name / 'result.json'
    return json.loads(path.read_text('utf-8')) if path.exists() else None

  def report(self, name: str, said: str, ok: bool, seconds: float) -> None:
    """Adds a check's answer to check.json."""
    entry = {'check': name, 'ok': ok, 'said': said, 'seconds': seconds}
    with self._lock:
      self.done.append(entry)
      text = '\n'.join(
        f'{"ok    " if each["ok"] else "FAILED"} {each["check"]} '
        f'({each["seconds"]:.0f} s): {each["said"]}'
        for each in self.done
      )
      missing = self._checks - len(self.done)
      text += f'\n({missing} more had no time)' * bool(missing)
      content = json.dumps({'checks': self.done, 'text': text}, indent=2)
      chunks.replace(
        pathlib.Path(self.options['results']) / 'check.json', content
      )


def main_job(lab: Lab) -> str:
  """The main job trains its teacher and its student."""
  result = lab.train('run')
  return (
    f'{result["method"]}, {result["epochs"]} epochs: {result["top1"]:.2f}% '
    f'top-1 in {result["wall_s"]:.0f} s on {result["hardware"]}'
  )


def evaluation(lab: Lab) -> str:
  """Evaluating the run counts what the run counted."""
  figures = lab.work / 'figures.json'
  lab.command(
    'evaluate',
    ['-m', 'kd_jax.evaluate', str(lab.work / 'run'), f'--json={figures}'],
  )
  correct = json.loads(figures.read_text('utf-8'))['correct']
  return _counted(lab, correct)


def prediction(lab: Lab) -> str:
  """The export's predict.py, on this device, counts what the run counted."""
  exported = lab.work / 'exported'
  lab.command(
    'export',
    [
      '-m', 'kd_jax.export', str(lab.work / 'run'), str(exported),
      '--with_test_set',
    ],
  )  # fmt: skip
  platform = lab.options['platform']
  said = lab.command(
    'predict',
    [str(exported / 'predict.py'), str(exported / 'test.npz')],
    environment={'JAX_PLATFORMS': {'gpu': 'cuda'}.get(platform, platform)},
  )
  found = re.search(r'(\d+) of \d+ correct', said)
  if not found:
    raise Failed(f'predict.py did not count: {said[-200:]}')
  return _counted(lab, int(found[1]))


def _counted(lab: Lab, correct: int) -> str:
  text = (lab.work / 'run' / 'result.json').read_text('utf-8')
  result = json.loads(text)
  images = result['test_images']
  own = round(result['top1'] * images / 100)
  if correct != own:
    raise Failed(f'{correct} of {images} correct, and the run counted {own}')
  return f'{correct} of {images} correct, as the run counted'


def deterministic(lab: Lab) -> str:
  """Two deterministic runs are equal bit for bit."""
  _deterministic(lab, 'second')
  return _as_undisturbed(lab, 'second')


def interrupted(lab: Lab) -> str:
  """A run that SIGTERM stopped ends with the bits of an undisturbed one."""
  metrics = lab.work / 'stopped' / 'metrics.jsonl'
  _deterministic(
    lab,
    'stopped',
    code=75,
    stop=lambda: metrics.exists() and metrics.stat().st_size > 0,
  )
  _deterministic(lab, 'stopped', log='resumed')
  text = (lab.work / 'resumed.log').read_text('utf-8')
  step = re.search(r'resuming at step (\d+)', text)
  if not step:
    raise Failed('the second start did not go on from the first')
  return f'stopped at step {step[1]}: {_as_undisturbed(lab, "stopped")}'


def dispatches(lab: Lab) -> str:
  """A dispatch of many steps does what as many of one step do."""
  epoch = '--config.epochs=1'  # rounding grows with every further step
  _deterministic(lab, 'many', epoch)
  _deterministic(lab, 'single', epoch, '--config.steps_per_dispatch=1')
  return f'1 and {_STEPS} steps: {compared(lab, "single", "many", exact=False)}'


def _deterministic(lab: Lab, name: str, *more: str, **kwargs: Any) -> Any:
  steps = f'--config.steps_per_dispatch={_STEPS}'
  return lab.train(name, '--config.deterministic=True', steps, *more, **kwargs)


def _as_undisturbed(lab: Lab, name: str) -> str:
  lab.reference.result()  # raises what it failed of
  return compared(lab, name, REFERENCE)


def compared(lab: Lab, one: str, other: str, *, exact: bool = True) -> str:
  """Compares all arrays that two runs deploy.

  Args:
    lab: Holds their folders.
    one: The name of a run.
    other: The name of another one.
    exact: Whether a difference is a fault.

  Raises:
    Failed: They differ and `exact` is set.
  """
  ours, theirs = (
    trained.load(lab.work / each).weights for each in (one, other)
  )
  if ours.keys() != theirs.keys():
    raise Failed(f'{one} and {other} have other arrays')
  pairs = {k: (np.asarray(ours[k]), np.asarray(theirs[k])) for k in ours}
  unequal = {
    k: float(np.abs(a - b).max())
    for k, (a, b) in pairs.items()
    if a.tobytes() != b.tobytes()
  }
  if not unequal:
    return f'{len(pairs)} arrays are equal bit for bit'
  where = max(unequal, key=unequal.__getitem__)
  text = (
    f'{len(unequal)} of {len(pairs)} arrays differ, by up to '
    f'{unequal[where]:.3g} '
    f'({where})'
  )
  if exact:
    raise Failed(text)
  return text


REFERENCE = 'reference'
# The checks that begin at once after the main job, which trains the teacher
# of all runs. The ones of a lane follow one another.
LANES = (
  (evaluation, prediction),
  (deterministic,),
  (interrupted,),
  (dispatches,),
)
COUNT = 1 + sum(map(len, LANES))


def checked(lab: Lab, check: Callable[[Lab], str]) -> bool:
  """Runs a check and reports it; returns whether it passed."""
  began = time.monotonic()
  try:
    said, ok = check(lab), True
  except (Failed, errors.UsageError, errors.RunError) as error:
    said, ok = str(error), False
  seconds = time.monotonic() - began
  name = (check.__doc__ or '').rstrip('.')
  print(f'{"ok    " if ok else "FAILED"} {name} ({seconds:.0f} s): {said}')
  lab.report(name, said, ok, seconds)
  return ok


def main(path: str) -> int:
  """Runs all checks; `path` is of the options that run.py wrote."""
  options = json.loads(pathlib.Path(path).read_text('utf-8'))
  # Only to compare arrays; in the processes JAX takes the device.
  jax.config.update('jax_platforms', 'cpu')
  lab = Lab(options, COUNT)
  if checked(lab, main_job):
    with concurrent.futures.ThreadPoolExecutor(len(LANES) + 1) as pool:
      lab.reference = pool.submit(_deterministic, lab, REFERENCE)

      def lane(checks: Sequence[Callable[[Lab], str]]) -> None:
        for check in checks:
          checked(lab, check)

      for lane_done in [pool.submit(lane, checks) for checks in LANES]:
        lane_done.result()
  passed = sum(each['ok'] for each in lab.done)
  print(f'{passed} of {COUNT} checks passed')
  return int(passed < COUNT)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1]))
