"""The texts of a run: its opening and its table."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from kd_jax import errors, models, tasks
from kd_jax.distill import augmented, build, memory
from kd_jax.methods import registry
from kd_jax.runtime import logging, run_dir


def table(rows: Sequence[Sequence[str]]) -> str:
  """Returns rows under a header as an aligned table.

  The first column is aligned to the left, the others to the right; a cell is
  one line, whatever its name holds.
  """
  shown = [[errors.shown(cell) for cell in row] for row in rows]
  widths = [max(len(row[i]) for row in shown) for i in range(len(rows[0]))]
  lines = [
    '  '.join(
      cell.ljust(width) if i == 0 else cell.rjust(width)
      for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in shown
  ]
  return '\n'.join([lines[0], '-' * max(map(len, lines)), *lines[1:]])


def costs(parts: build.Parts) -> dict[str, dict[str, float]]:
  """Returns 'params' and 'flops' of the deployed prediction and each teacher.

  FLOPs are those of one image's forward pass; see `inspect.Deployed`.
  """
  deployed, size = parts.deployed, parts.source.info.image_size
  return {
    deployed.name: {'params': deployed.params, 'flops': deployed.flops},
    **{
      name: cost(network, size) for name, network in parts.exp.teachers.items()
    },
  }


def cost(network: nn.Module, image_size: int) -> dict[str, float]:
  """Returns 'params' and 'flops' of a network; see `costs`."""
  description = models.describe(network, image_size)
  return {'params': description.params, 'flops': description.flops}


def short(number: float) -> str:
  """Returns a count with three digits: '78.3 k', '11.2 M'."""
  for unit, size in (('G', 1e9), ('M', 1e6), ('k', 1e3)):
    if number >= size:
      return f'{number / size:.3g} {unit}'
  return f'{number:.3g}'


def opening(
  config: ConfigDict, parts: build.Parts, folder: run_dir.Folder
) -> str:
  """Returns the lines that a run prints before its first step.

  They tell its data, networks, method, taps, devices and steps.
  """
  info = parts.source.info
  size = info.image_size
  train = f'{info.num_train} training'
  if info.num_val:
    train += f', {info.num_val} validation'
  lines = [
    f'data      {info.name}: {train} and {info.num_test} test images, '
    f'{size}x{size}, {len(info.class_names)} classes',
    *(f'          {note}' for note in parts.source.notes),
  ]
  if on := augmented.text(config):
    lines.append(f'images    {on}')
  for name, network_costs in costs(parts).items():
    is_teacher = name in parts.exp.teachers
    network = config.teacher.name if is_teacher else config.student.name
    other_groups = [
      group
      for group in parts.deployed.groups
      if group != name and not is_teacher
    ]
    lines.append(
      f'{name:9} {network}: {short(network_costs["params"])} parameters, '
      f'{short(network_costs["flops"])} FLOPs an image'
      + (f' (with those of {", ".join(other_groups)})' if other_groups else '')
    )
  terms = ', '.join(
    f'{term} {_weight(weight)}' for term, weight in config.weights.items()
  )
  lines.append(f'method    {config.method}: weights {terms}')
  for phase in parts.phases[:-1]:
    changes = config.phases[phase.name].get('weights', {})
    terms = ', '.join(
      f'{term} {_weight(weight)}' for term, weight in changes.items()
    )
    lines.append(
      f'          first, phase {phase.name} of {phase.last - phase.first} steps'
      + (f': weights {terms}' if terms else '')
    )
  if note := parts.exp.method.reconstructed:
    lines.append(f'          {note}')
  lines += [
    f'          teacher {teacher_tap} {_shape(parts, "teacher", teacher_tap)} '
    f'-> student {student_tap} {_shape(parts, "student", student_tap)}'
    for teacher_tap, student_tap in parts.exp.method.pairs()
  ]
  images = augmented.resident_bytes(config, info)
  if note := memory.note(parts, images, config.accumulate_steps):
    lines.append(f'memory    {note}')
  if build.chooses_taps(config):
    taps = getattr(parts.exp.method, 'taps', ())
    lines.append(
      f"          taps {', '.join(taps)}, up to the networks' last maps "
      '(config.method_args.taps names others)'
    )
  devices = parts.mesh.devices.ravel()
  lines += [
    f'devices   {len(devices)} x {devices[0].device_kind} (mesh '
    f'{dict(parts.mesh.shape)}), {_dtypes(config)}',
    f'steps     {parts.total_steps} = {parts.epochs} epochs of '
    f'{parts.steps_per_epoch}, {config.batch_size} images each, seed '
    f'{config.seed}',
    f'folder    {folder.path}',
  ]
  return '\n'.join(map(errors.line, lines))


def _dtypes(config: ConfigDict) -> str:
  """Returns the dtypes that the networks compute in."""
  teacher = config.teacher.dtype
  differs = teacher and teacher != config.dtype
  return f'{config.dtype}, teacher in {teacher}' if differs else config.dtype


def _weight(spec: Any) -> str:
  if isinstance(spec, ConfigDict):
    return f'{spec.get("kind", "constant")} to {spec.value:g}'
  return f'{spec:g}'


def _shape(parts: build.Parts, network: str, tap: str) -> str:
  return 'x'.join(
    str(length) for length in parts.features[network][tap].shape[1:]
  )


def closing(
  method: str, result: Mapping[str, Any], alone: Mapping[str, Any] | None
) -> str:
  """Returns the table of a run: the teacher, the student alone and distilled.

  Args:
    method: The method, as the run's configuration names it.
    result: The result of the run.
    alone: The result of the student alone; None if it was not trained.
  """
  metric = tasks.headline(result)
  head = (
    '', 'network', f'{metric.text} (last)', 'best_on_test', 'parameters',
    'FLOPs', 'time',
  )  # fmt: skip
  rows: list[tuple[str, ...]] = [head]
  teacher = result['teacher']
  if teacher:
    rows.append(
      (
        'teacher',
        teacher['network'],
        _percent(teacher.get(metric.name)),
        _percent(teacher.get('best_on_test')),
        short(teacher['params']),
        short(teacher['flops']),
        # The time is unknown for weights from elsewhere.
        logging.duration(teacher['wall_s']) if 'wall_s' in teacher else '',
      )
    )
  if result['method'] != 'ce':
    rows.append(
      _row('student alone', alone)
      if alone
      else ('student alone', result['network'], 'not trained', *[''] * 4)
    )
  rows.append(_row(f'student, {result["method"]}', result))
  if averaged := result.get('ema'):
    name = f'averaged (ema {averaged["decay"]:g})'
    rows.append(_row(name, {**result, 'best_on_test': None, **averaged}))
  lines = [table(rows)]
  if note := registry.method_class(method).reconstructed:
    lines.append(note)
  return '\n'.join(lines)


def _percent(value: float | None) -> str:
  return '' if value is None else f'{value:.2f}%'


def _row(name: str, result: Mapping[str, Any]) -> tuple[str, ...]:
  return (
    name,
    result['network'],
    f'{result[tasks.headline(result).name]:.2f}%',
    _percent(result.get('best_on_test')),
    short(result['params']),
    short(result['flops']),
    logging.duration(result['wall_s']),
  )
