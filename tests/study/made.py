"""Folders and files of finished runs, written by hand."""

import json

from kd_jax import config as config_lib

ALONE = {0: 90.0, 1: 91.0, 2: 92.0}


def config(method='kd', **changes):
  """Returns the digits configuration of a method; `changes` are of 'a.b'."""
  found = config_lib.load(f'{method}:digits')
  found.student = config_lib.network('resnet8', widths=(4, 8))
  for path, value in changes.items():
    found.update_from_flattened_dict({path: value})
  return found


def result(made, top1, teacher=97.5):
  """Returns the content of the result.json of a configuration."""
  return {
    'seed': made.seed,
    'epochs': made.epochs + sum(p.epochs for p in made.phases.values()),
    'top1': top1,
    'teacher': {'top1': teacher} if made.teacher.name else None,
    'hardware': '1 x cpu',
    'commit': 'abc',
    'versions': {'jax': '0.10.2'},
  }


def run(folder, top1, method='kd', alone=None, teacher=97.5, **changes):
  """Writes the folder of a finished run, and returns its path as text.

  Args:
    folder: The folder to write.
    top1: Its top-1; None leaves the run unfinished.
    method: The method.
    alone: The top-1 of the student alone; None if it is not known.
    teacher: The top-1 of the teacher.
    **changes: Of the configuration.
  """
  folder.mkdir(parents=True)
  made = config(method, **changes)
  values = {**config_lib.plain(made), 'data_facts': {'name': made.data.name}}
  (folder / 'config.json').write_text(json.dumps(values))
  if top1 is None:
    (folder / 'metrics.jsonl').write_text('{"step": 27, "epoch": 3.0}\n')
    return str(folder)
  found = result(made, top1, teacher)
  (folder / 'result.json').write_text(json.dumps(found))
  if alone is not None:
    known = {'top1': alone, 'epochs': made.epochs, 'from': 'cache'}
    (folder / 'alone.json').write_text(json.dumps(known))
  return str(folder)


def several(folder, top1, method='kd', alone=None, **changes):
  """Writes a folder with a run for each seed of `top1`, a dict."""
  for seed, value in top1.items():
    run(
      folder / f'seed{seed}',
      value,
      method,
      (alone or {}).get(seed),
      **changes,
      seed=seed,
    )
  return str(folder)


def seeds_file(path, top1, method='kd', alone=None, teacher=97.5, **changes):
  """Writes the file of `--seeds`, and returns its path as text."""
  found = {
    'seeds': list(top1),
    'top1': list(top1.values()),
    'config': config_lib.plain(config(method, **changes)),
  }
  if teacher is not None:
    found['teacher_top1'] = [teacher] * len(top1)
  if alone:
    found['alone_top1'] = list(alone.values())
  path.write_text(json.dumps(found))
  return str(path)
