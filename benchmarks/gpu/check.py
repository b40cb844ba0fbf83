"""Checks kd_jax on this device; run.py starts it.

The main job is trained, evaluated and exported, and its export predicts. Then
the arrays of runs with `config.deterministic` are compared: two that nothing
disturbs, one that SIGTERM stops and that the same command resumes, and one with
another number of steps per dispatch.
"""

from collections.abc import Callable, Sequence
import concurrent.futures
import json
import pathlib
import re
import sys
import time
from typing import Any

import jax
import lab as lab_lib

from kd_jax import errors

REFERENCE = 'reference'  # the deterministic run that others are compared with
_STEPS = 9  # per dispatch: an epoch of the embedded recipe
# How much rounding may change an array in that epoch; on a CPU it is 2.4e-7.
_ROUNDING = 1e-3


def main_job(lab: lab_lib.Lab) -> str:
  """The main job trains its teacher and its student."""
  result = lab.train('run')
  return (
    f'{result["method"]}, {result["epochs"]} epochs: {result["top1"]:.2f}% '
    f'top-1 in {result["wall_s"]:.0f} s on {result["hardware"]}'
  )


def evaluation(lab: lab_lib.Lab) -> str:
  """Evaluating the run counts what the run counted."""
  figures = lab.work / 'figures.json'
  lab.command(
    'evaluate',
    ['-m', 'kd_jax', 'evaluate', str(lab.work / 'run'), f'--json={figures}'],
  )
  correct = json.loads(figures.read_text('utf-8'))['correct']
  return _counted(lab, correct)


def prediction(lab: lab_lib.Lab) -> str:
  """The export's predict.py, on this device, counts what the run counted."""
  exported = lab.work / 'exported'
  lab.command(
    'export',
    [
      '-m', 'kd_jax', 'export', str(lab.work / 'run'), str(exported),
      '--with_test_set',
    ],
  )  # fmt: skip
  platform = lab.options['platform']
  output = lab.command(
    'predict',
    [str(exported / 'predict.py'), str(exported / 'test.npz')],
    environment={'JAX_PLATFORMS': {'gpu': 'cuda'}.get(platform, platform)},
  )
  match = re.search(r'(\d+) of \d+ correct', output)
  if not match:
    raise lab_lib.Failed(f'predict.py did not count: {output[-200:]}')
  return _counted(lab, int(match[1]))


def _counted(lab: lab_lib.Lab, correct: int) -> str:
  text = (lab.work / 'run' / 'result.json').read_text('utf-8')
  result = json.loads(text)
  images = result['test_images']
  counted = round(result['top1'] * images / 100)
  if correct != counted:
    raise lab_lib.Failed(
      f'{correct} of {images} correct, and the run counted {counted}'
    )
  return f'{correct} of {images} correct, as the run counted'


def deterministic(lab: lab_lib.Lab) -> str:
  """Two deterministic runs are equal bit for bit."""
  _deterministic(lab, 'second')
  return _as_undisturbed(lab, 'second')


def interrupted(lab: lab_lib.Lab) -> str:
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
  match = re.search(r'resuming at step (\d+)', text)
  if not match:
    raise lab_lib.Failed('the second start did not go on from the first')
  return f'stopped at step {match[1]}: {_as_undisturbed(lab, "stopped")}'


def dispatches(lab: lab_lib.Lab) -> str:
  """Dispatches of one step and of many agree but for rounding."""
  epoch = '--config.epochs=1'  # rounding grows with every further step
  _deterministic(lab, 'many', epoch)
  _deterministic(lab, 'single', epoch, '--config.steps_per_dispatch=1')
  comparison = lab_lib.compared(lab, 'single', 'many', most=_ROUNDING)
  return f'1 and {_STEPS} steps: {comparison}'


def _deterministic(
  lab: lab_lib.Lab, name: str, *more: str, **kwargs: Any
) -> Any:
  steps = f'--config.steps_per_dispatch={_STEPS}'
  return lab.train(name, '--config.deterministic=True', steps, *more, **kwargs)


def _as_undisturbed(lab: lab_lib.Lab, name: str) -> str:
  lab.reference.result()  # raises if the reference run failed
  return lab_lib.compared(lab, name, REFERENCE)


# The checks after the main job, which trains the teacher of all runs. Lanes run
# side by side, and the checks of a lane one after the other.
LANES = (
  (evaluation, prediction),
  (deterministic,),
  (interrupted,),
  (dispatches,),
)
COUNT = 1 + sum(map(len, LANES))


def checked(lab: lab_lib.Lab, check: Callable[[lab_lib.Lab], str]) -> bool:
  """Runs a check, reports it, and returns whether it passed."""
  began = time.monotonic()
  try:
    said, ok = check(lab), True
  except (lab_lib.Failed, errors.UsageError, errors.RunError) as error:
    said, ok = str(error), False
  seconds = time.monotonic() - began
  name = (check.__doc__ or '').rstrip('.')
  print(f'{"ok    " if ok else "FAILED"} {name} ({seconds:.0f} s): {said}')
  lab.report(name, said, ok, seconds)
  return ok


def main(path: str) -> int:
  """Runs all checks.

  Args:
    path: The file of options that run.py wrote.

  Returns:
    The exit code: 0 if all checks passed, else 1.
  """
  options = json.loads(pathlib.Path(path).read_text('utf-8'))
  # This process only compares arrays; the runs it starts use the device.
  jax.config.update('jax_platforms', 'cpu')
  lab = lab_lib.Lab(options, COUNT)
  if checked(lab, main_job):
    with concurrent.futures.ThreadPoolExecutor(len(LANES) + 1) as pool:
      lab.reference = pool.submit(_deterministic, lab, REFERENCE)

      def lane(checks: Sequence[Callable[[lab_lib.Lab], str]]) -> None:
        for check in checks:
          checked(lab, check)

      for lane_done in [pool.submit(lane, checks) for checks in LANES]:
        lane_done.result()
  passed = sum(entry['ok'] for entry in lab.done)
  print(f'{passed} of {COUNT} checks passed')
  return int(passed < COUNT)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1]))
