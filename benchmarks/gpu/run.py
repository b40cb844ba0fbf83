"""Uses a limited time on a GPU: python run.py OUT --seconds=570

Three parts follow one another, each a process with its own deadline:

  check   trains the main job, runs its export on this device, and compares runs
          bit for bit
  table   times training steps of kd_jax and of PyTorch, in turns
  train   trains one run of a recipe's full length, as far as the time goes

OUT/results holds what to keep; it is written during and after every part.
OUT/work is scratch space. A part that fails or takes too long is ended and
reported, and the next one begins. SIGTERM ends the running part; a training run
saves first.

Exit codes: 0 all parts are done, 1 a part failed or had no time, 2 wrong usage
or a machine that lacks something, 75 stopped by SIGTERM.
"""

import argparse
from collections.abc import Sequence
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Any

import child
import chunks

from kd_jax import errors
from kd_jax.runtime import command

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# The parts import kd_jax from the checkout that holds this file.
_GIVEN = filter(None, os.environ.get('PYTHONPATH', '').split(os.pathsep))
PATHS = {
  'PYTHONPATH': os.pathsep.join([str(ROOT), *map(os.path.abspath, _GIVEN)])
}
PARTS = ('check', 'table', 'train')
_COMPILE_MODES = (
  'default', 'reduce-overhead', 'max-autotune', 'max-autotune-no-cudagraphs',
)  # fmt: skip
_STOPPED = 75
_END_S = 10.0  # seconds reserved for ending a part and the last table
_LEAST_S = 20.0  # no part starts with fewer seconds
_TRAIN_S = 40.0  # nor does `train` with fewer until it is told to stop
_IMPORT_S = 120.0  # the most seconds that importing may take
# The minimum of options; 0 often means the value of the recipe or the row.
_MINIMA: dict[str, float] = {
  'check_s': 0, 'check_epochs': 0, 'table_s': 0, 'lanes': 1, 'repeats': 1,
  'steps': 1, 'images': 1, 'image_size': 1, 'batch_size': 0, 'keep_s': 1,
  'stop_s': 10, 'chunk_mb': 1,
}  # fmt: skip

# Small sizes, for which all parts take about five minutes on two CPU cores.
TINY: dict[str, Any] = {
  'seconds': 900.0, 'check_s': 400.0, 'table_s': 300.0, 'check_config': 'kd',
  'check_epochs': 12,
  'rows': 'KD,Tf-FD,KD PyTorch eager,KD PyTorch compiled', 'lanes': 2,
  'steps': 2, 'batch_size': 16, 'images': 256, 'image_size': 16,
  'student': 'resnet8', 'teacher': 'resnet20', 'recipe': 'tf_fd:digits',
  'keep_s': 5.0, 'stop_s': 10.0, 'train_s': 50.0,
}  # fmt: skip


@command.reporting()
def main(argv: Sequence[str]) -> int:
  """Runs the parts, prints a short table and returns the exit code."""
  began, stop = time.monotonic(), child.Stop()
  args = parse(argv)
  about = _about(args, time.monotonic() - began)
  results, work = args.out / 'results', args.work
  results.mkdir(parents=True, exist_ok=True)
  work.mkdir(parents=True, exist_ok=True)
  options = {**vars(args), 'results': str(results), 'work': str(work), **about}
  report: dict[str, Any] = {'about': about, 'arguments': vars(args)}
  report['parts'] = states = {}
  for name in args.parts:
    left = args.seconds - _END_S - (time.monotonic() - began)
    part_seconds = getattr(args, f'{name}_s') or left
    states[name] = run_part(name, min(part_seconds, left), options, stop)
    print(_line(name, states[name]), flush=True)
    report['seconds'] = round(time.monotonic() - began, 1)
    text = json.dumps(report, indent=2, default=str)
    chunks.replace(results / 'run.json', text)
  print(f'\n{summary(results, states)}\nresults: {results}')
  if stop():
    return _STOPPED
  return int(any(state['state'] != 'done' for state in states.values()))


def parse(argv: Sequence[str]) -> argparse.Namespace:
  """Returns the options; --tiny sets the defaults of `TINY`.

  Raises:
    UsageError: An option has an invalid value.
  """
  parser = _parser()
  if parser.parse_args(argv).tiny:
    parser.set_defaults(**TINY)
  args = parser.parse_args(argv)
  args.out = args.out.resolve()  # `train` runs in another folder
  chosen = args.parts.split(',')
  for name in chosen:
    if name not in PARTS:
      raise errors.unknown('value of --parts:', name, PARTS)
  args.parts = [name for name in PARTS if name in chosen]
  if args.resume and not (args.resume / chunks.SUMS).is_file():
    raise errors.UsageError(
      f'--resume={args.resume} holds no {chunks.SUMS}: give the folder '
      'results/train of an earlier run'
    )
  args.work = (args.work or args.out / 'work').resolve()
  # Parts that find runs of an earlier call would take them for their own.
  for place in (args.out / 'results', args.work):
    if place.exists():
      raise errors.UsageError(
        f'{place} is there, from an earlier run: give a new folder'
      )
  kind, _, file = args.data.partition(':')
  if kind == 'npz' and not pathlib.Path(file).is_file():
    raise errors.UsageError(f'--data={args.data}: there is no such file')
  if args.compile_mode not in _COMPILE_MODES:
    raise errors.unknown(
      'value of --compile_mode:', args.compile_mode, _COMPILE_MODES
    )
  least = {**_MINIMA, 'seconds': _END_S + _LEAST_S}
  least['train_s'] = _train_least_s(args.stop_s) if args.train_s else 0
  for name, limit in least.items():
    value = getattr(args, name)
    if not value >= limit:
      raise errors.UsageError(
        f'--{name}={value:g} is too little: give at least {limit:g}'
      )
  return args


def _train_least_s(stop_s: float) -> float:
  return stop_s + _TRAIN_S


def _parser() -> argparse.ArgumentParser:
  parser = command.parser('run.py', __doc__)
  add = parser.add_argument
  add('out', type=pathlib.Path, help='a new folder')
  add('--seconds', type=float, default=570.0, help='for everything')
  add('--work', type=pathlib.Path, help='scratch space; OUT/work')
  add('--parts', default=','.join(PARTS), help='which of them')
  add('--platform', default='gpu', help='what JAX must run on: gpu or cpu')
  add('--tiny', action='store_true', help='small sizes, to rehearse on a CPU')
  add('--check_s', type=float, default=200.0, help='seconds of the checks')
  add('--check_config', default='fpd', help='the main job of the checks')
  add('--check_epochs', type=int, default=20, help="0: its recipe's own")
  add('--table_s', type=float, default=240.0, help='seconds of the table')
  add('--rows', default='', help="the table's rows: A,B*; '' is the first")
  add('--lanes', type=int, default=7, help='programs that compile at once')
  add('--repeats', type=int, default=3, help='turns that count')
  add('--steps', type=int, default=256, help='of a turn, at least')
  add('--images', type=int, default=50000, help='random images of the table')
  add('--image_size', type=int, default=32, help='their pixels')
  add('--batch_size', type=int, default=0, help="0 is the rows' own")
  add('--student', help="a network in place of the rows' own")
  add('--teacher', help="a network in place of the rows' own")
  add('--compile_mode', default='reduce-overhead', help="torch.compile's")
  add('--recipe', default='tf_fd:cifar100_r20', help='name:recipe, trained')
  add('--data', default='', help="config.data.name; '' is the recipe's")
  add('--seed', type=int, default=0, help='of the training')
  add('--train_arg', action='append', default=[], help='--config.a=b, for it')
  add('--train_s', type=float, default=0.0, help='0: all that is left')
  add('--resume', type=pathlib.Path, help='results/train of an earlier run')
  add('--keep_s', type=float, default=60.0, help='between kept checkpoints')
  add('--stop_s', type=float, default=25.0, help='that its last save may take')
  add('--chunk_mb', type=int, default=15, help='MB of a chunk, at most')
  return parser


def _about(args: argparse.Namespace, late_s: float) -> dict[str, Any]:
  """Imports everything in a process, and describes the machine.

  Args:
    args: The options.
    late_s: Seconds that have passed before this call.

  Returns:
    What imports.py prints.

  Raises:
    UsageError: A module is missing, JAX runs on another platform, or an option
      names what is not there.
  """
  began, asked = time.monotonic(), json.dumps(vars(args), default=str)
  try:
    done = subprocess.run(
      [sys.executable, str(HERE / 'imports.py'), asked],
      capture_output=True,
      text=True,
      timeout=_IMPORT_S,
      env={**os.environ, **PATHS},
      check=False,
    )
  except subprocess.TimeoutExpired as error:
    raise errors.UsageError(
      f'importing took over {_IMPORT_S:g} s: JAX may wait for a device'
    ) from error
  if done.returncode:
    last_line = (done.stderr.strip() or 'it said nothing').splitlines()[-1]
    raise errors.UsageError(f'JAX does not start here: {last_line}')
  about = json.loads(done.stdout)
  if absent := about.get('missing'):
    lines = [f'{name} ({why})' for name, why in absent.items()]
    raise errors.UsageError(
      f'cannot import {"; ".join(lines)}: unpack site.tar.xz and name its '
      'folder in PYTHONPATH'
    )
  if wrong := about.get('wrong'):
    raise errors.UsageError(wrong)
  if about['platform'] != args.platform:
    raise errors.UsageError(
      f'JAX runs on {about["platform"]} and not on {args.platform}: install '
      f"JAX's plugin for it, or give --platform={about['platform']}"
    )
  versions = ', '.join(f'{k} {v}' for k, v in about['versions'].items())
  import_s = late_s + time.monotonic() - began
  print(
    f'{about["hardware"]}, {about["cores"]} cores; {versions}; commit ', end=''
  )
  print(f'{about["commit"]}; all modules import ({import_s:.0f} s)', flush=True)
  return about


def run_part(
  name: str, seconds: float, options: dict[str, Any], stop: child.Stop
) -> dict[str, Any]:
  """Runs a part and returns how it ended.

  Args:
    name: One of `PARTS`.
    seconds: The time limit.
    options: The options that the part reads.
    stop: Returns whether this command was told to stop.

  Returns:
    'state' ('done', 'failed', 'ran over', 'no time' or 'stopped'), 'seconds',
    'code' (the exit code) and 'log' (the last lines of its output); without the
    last two if the part did not start.
  """
  train = name == 'train'
  least = _train_least_s(options['stop_s']) if train else _LEAST_S
  if stop() or seconds < least:
    return {'state': 'stopped' if stop() else 'no time', 'seconds': 0.0}
  work = pathlib.Path(options['work'])
  options_path = work / f'{name}_options.json'
  # Processes of one machine share this clock.
  limits = {'seconds': seconds, 'until': time.monotonic() + seconds}
  text = json.dumps({**options, **limits}, default=str)
  options_path.write_text(text, encoding='utf-8')
  log = work / f'{name}.log'
  ended = child.run(
    [sys.executable, str(HERE / f'{name}.py'), str(options_path)],
    seconds + 2.0,  # time for the part to end by itself
    log=log,
    environment=environment(name, work),
    grace_s=options['stop_s'] if train else 5.0,
    stop=stop,
  )
  state = 'failed' if ended.code else 'done'
  if ended.stopped:
    state = 'stopped' if stop() else 'ran over'
  lines = log.read_text('utf-8', errors='replace').splitlines()
  return {
    'state': state,
    'seconds': round(ended.seconds, 1),
    'code': ended.code,
    'log': lines[-20:],
  }


def environment(name: str, work: pathlib.Path) -> dict[str, str]:
  """Returns the variables that a part's environment adds to this process's.

  Args:
    name: One of `PARTS`.
    work: The folder of the caches.
  """
  variables = {
    **PATHS,
    'JAX_COMPILATION_CACHE_DIR': str(work / 'compiled'),
    'TORCHINDUCTOR_CACHE_DIR': str(work / 'inductor'),
    'KD_JAX_CACHE': str(work / 'cache'),
    'PYTHONUNBUFFERED': '1',
    'TF_CPP_MIN_LOG_LEVEL': '3',
  }
  if name != 'train':  # several processes of the part share the device
    variables['XLA_PYTHON_CLIENT_PREALLOCATE'] = 'false'
  return variables


def _line(name: str, state: dict[str, Any]) -> str:
  text = f'{name:6} {state["state"]} after {state["seconds"]:.0f} s'
  log = state.get('log') or ['']
  return f'{text}: {log[-1]}'.rstrip(': ')


def summary(results: pathlib.Path, states: dict[str, Any]) -> str:
  """Returns the parts' tables, the ends of failed logs, and a line per part.

  Args:
    results: The folder OUT/results.
    states: What `run_part` returned, by the name of the part.
  """
  sections = []
  for name, state in states.items():
    path = results / f'{name}.json'
    if path.exists():
      sections.append(json.loads(path.read_text('utf-8'))['text'])
    if state['state'] in ('failed', 'ran over'):
      sections.append('\n'.join(f'  {name}| {line}' for line in state['log']))
  sections.append('\n'.join(_line(*item) for item in states.items()))
  return '\n\n'.join(sections)


if __name__ == '__main__':
  os.environ.setdefault('PYTHONUNBUFFERED', '1')
  sys.exit(main(sys.argv[1:]))
