"""What the checks share: commands with a deadline, and comparing runs."""

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


def compared(
  lab: Lab, one: str, other: str, *, most: float | None = None
) -> str:
  """Compares all arrays that two runs deploy.

  Args:
    lab: Holds their folders.
    one: The name of a run.
    other: The name of another one.
    most: The largest difference of two finite numbers that is no fault; None
      demands the same bits.

  Raises:
    Failed: They differ by more, or `most` is set and a number is not finite.
  """
  ours, theirs = (
    restore.load(lab.work / each).weights for each in (one, other)
  )
  if ours.keys() != theirs.keys():
    raise Failed(f'{one} and {other} have other arrays')
  pairs = {k: (np.asarray(ours[k]), np.asarray(theirs[k])) for k in ours}
  if most is not None:
    for name, pair in pairs.items():
      if not all(np.isfinite(each).all() for each in pair):
        raise Failed(f'{name} holds numbers that are not finite')
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
    f'{unequal[where]:.3g} ({where})'
  )
  if most is None:
    raise Failed(text)
  if unequal[where] > most:
    raise Failed(f'{text}; {most:g} is allowed')
  return text
