"""The texts of a run: its opening and its table."""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from kd_jax import errors, models, tasks
from kd_jax.config import roles
from kd_jax.data import shaped
from kd_jax.distill import augmented, build, memory
from kd_jax.methods import registry
from kd_jax.runtime import logging, run_dir
from kd_jax.training import facts


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
      name: cost(network, parts.exp.sizes.get(name, size))
      for name, network in parts.exp.teachers.items()
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
  if info.task == 'segmentation':
    how = config.data.eval_protocol
    lines.append(f'          protocol {how}: {shaped.PROTOCOLS[how]}')
  if on := augmented.text(config):
    lines.append(f'images    {on}')
  lines += _networks(config, parts)
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
    f'          {teacher} {teacher_tap} {_shape(parts, teacher, teacher_tap)} '
    f'-> student {student_tap} {_shape(parts, "student", student_tap)}'
    for teacher_tap, student_tap in parts.exp.method.pairs()
    for teacher in parts.exp.teachers
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
  if parts.dispatch.note:
    lines.append(f'dispatch  {parts.dispatch.note}')
  devices = parts.mesh.devices.ravel()
  lines += [
    f'devices   {len(devices)} x {devices[0].device_kind} (mesh '
    f'{dict(parts.mesh.shape)}), {_dtypes(config, parts)}',
    f'steps     {parts.total_steps} = {parts.epochs} epochs of '
    f'{parts.steps_per_epoch}, {config.batch_size} images each, seed '
    f'{config.seed}',
    f'folder    {folder.path}',
  ]
  return '\n'.join(map(errors.line, lines))


def _networks(config: ConfigDict, parts: build.Parts) -> list[str]:
  """Returns a line for the deployed network, other students and teachers."""
  size, deployed = parts.source.info.image_size, parts.deployed
  rows = costs(parts)
  if roles.named(config, 'student'):  # else they are as the deployed one
    others = parts.exp.students.items()
    rows = {**{n: cost(x, size) for n, x in others}, **rows}
  lines = []
  for name, network_costs in rows.items():
    if name in parts.exp.teachers:
      network = roles.with_teacher(config, name).teacher.name
    else:
      network = roles.student(config, name).name
    notes = []
    if seen := parts.exp.sizes.get(name):
      notes.append(f'images resized to {seen}x{seen}')
    if groups := [g for g in deployed.groups if g != name == deployed.name]:
      notes.append(f'with those of {", ".join(groups)}')
    lines.append(
      f'{name:9} {network}: {short(network_costs["params"])} parameters, '
      f'{short(network_costs["flops"])} FLOPs an image'
      + (f' ({"; ".join(notes)})' if notes else '')
    )
  return lines


def _dtypes(config: ConfigDict, parts: build.Parts) -> str:
  """Returns the dtypes that the networks compute in."""
  dtypes = {
    name: roles.with_teacher(config, name).teacher.dtype
    for name in parts.exp.teachers
  }
  differ = [
    f'{name} in {dtype}'
    for name, dtype in dtypes.items()
    if dtype not in ('', config.dtype)
  ]
  return ', '.join([config.dtype, *differ])


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
  rows += [
    (
      facts.called(name),
      teacher['network'],
      _percent(teacher.get(metric.name)),
      _percent(teacher.get('best_on_test')),
      short(teacher['params']),
      short(teacher['flops']),
      # The time is unknown for weights from elsewhere.
      logging.duration(teacher['wall_s']) if 'wall_s' in teacher else '',
    )
    for name, teacher in facts.teachers(result).items()
  ]
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
