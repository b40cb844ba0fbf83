"""Commands with a deadline and the comparison of runs, which checks share."""

from collections.abc import Callable, Sequence
import concurrent.futures
import json
import pathlib
import sys
import threading
import time
from typing import Any

import child
import chunks
import numpy as np

from kd_jax.training import restore


class Failed(Exception):  # noqa: N818  (the answer of a check)
  """A check failed; the message says why."""


_RECORD_S = 3.0  # seconds of the checks' time that are for their records


class Lab:
  """The options, deadline and folder that the checks share.

  Attributes:
    options: The options of run.py.
    work: The folder of the runs.
    done: The entries of the checks that have ended, as in check.json.
    reference: The deterministic run that others are compared with.
  """

  reference: 'concurrent.futures.Future[Any]'

  def __init__(self, options: dict[str, Any], checks: int):
    """Starts the time of the checks.

    Args:
      options: The options of run.py.
      checks: The number of checks.
    """
    self.options, self._checks = options, checks
    self.work = pathlib.Path(options['work']) / 'check'
    self.work.mkdir(exist_ok=True)
    self._last = options['until'] - _RECORD_S
    self.done: list[dict[str, Any]] = []
    self._lock = threading.Lock()
    self._write()

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
      name: The name of its log, which must be new.
      arguments: The arguments of Python.
      code: The exit code that it must have.
      environment: Variables to add to this process's environment.
      stop: Returns whether to send SIGTERM now.

    Raises:
      Failed: It ends with another exit code, or the time is up.
    """
    log = self.work / f'{name}.log'
    left = self._last - time.monotonic()
    ended = child.run(
      [sys.executable, *arguments],
      left,
      log=log,
      environment=environment,
      grace_s=max(1.0, left),
      overtime_s=_RECORD_S / 3,
      stop=stop,
    )
    text = log.read_text('utf-8', errors='replace')
    tail = ' | '.join(text.strip().splitlines()[-3:])
    if time.monotonic() > self._last:
      raise Failed(f'{name}: no time is left; it said: {tail}')
    if ended.code != code:
      raise Failed(f'{name} ended with {ended.code} and not {code}: {tail}')
    return text

  def train(self, name: str, *more: str, log: str = '', **kwargs: Any) -> Any:
    """Runs the main job.

    Args:
      name: The name of the run's folder.
      *more: Further arguments of `kd_jax.main`.
      log: The name of its log; '' means `name`.
      **kwargs: Further arguments of `command`.

    Returns:
      The content of result.json; None if the run did not write it.
    """
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
    """Adds the answer of a check to check.json.

    Args:
      name: The name of the check.
      said: What it observed, or why it failed.
      ok: Whether it passed.
      seconds: How long it took.
    """
    entry = {'check': name, 'ok': ok, 'said': said, 'seconds': seconds}
    with self._lock:
      self.done.append(entry)
      self._write()

  def _write(self) -> None:
    text = '\n'.join(
      f'{"ok    " if check["ok"] else "FAILED"} {check["check"]} '
      f'({check["seconds"]:.0f} s): {check["said"]}'
      for check in self.done
    )
    missing = self._checks - len(self.done)
    text += f'\n({missing} more had no time)' * bool(missing)
    content = json.dumps({'checks': self.done, 'text': text}, indent=2)
    chunks.replace(
      pathlib.Path(self.options['results']) / 'check.json', content
    )


def compared(
  lab: Lab, one: str, other: str, *, most: float | None = None
) -> str:
  """Compares all arrays that two runs deploy.

  Args:
    lab: The lab with their folders.
    one: The name of a run.
    other: The name of another run.
    most: The largest allowed difference of two finite numbers; None demands
      equal bits.

  Returns:
    What was compared, and by how much it differs.

  Raises:
    Failed: They differ by more, or `most` is set and a number is not finite.
  """
  weights, other_weights = (
    restore.load(lab.work / side).weights for side in (one, other)
  )
  if weights.keys() != other_weights.keys():
    raise Failed(f'{one} and {other} have other arrays')
  pairs = {
    k: (np.asarray(weights[k]), np.asarray(other_weights[k])) for k in weights
  }
  if most is not None:
    for name, pair in pairs.items():
      if not all(np.isfinite(side).all() for side in pair):
        raise Failed(f'{name} holds numbers that are not finite')
  unequal = {
    k: float(np.abs(a - b).max())
    for k, (a, b) in pairs.items()
    if a.tobytes() != b.tobytes()
  }
  if not unequal:
    return f'{len(pairs)} arrays are equal bit for bit'
  worst = max(unequal, key=unequal.__getitem__)
  text = (
    f'{len(unequal)} of {len(pairs)} arrays differ, by up to '
    f'{unequal[worst]:.3g} ({worst})'
  )
  if most is None:
    raise Failed(text)
  if unequal[worst] > most:
    raise Failed(f'{text}; {most:g} is allowed')
  return text
