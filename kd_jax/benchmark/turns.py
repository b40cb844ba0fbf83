"""Turns of everything that is timed, and tables of the figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kd_jax.benchmark import case, cost
from kd_jax.training import report

# Turns by the `id` of the object that took them, in the order of the rounds.
Times = Mapping[int, Sequence[cost.Turn]]


def take(every: Sequence[Any], repeats: int, steps: int) -> Times:
  """Lets all objects take turns, and returns the times of the turns.

  The first round is a warm-up, whose times are dropped.

  Args:
    every: Objects whose method `turn(steps)` returns a `cost.Turn`.
    repeats: Rounds that count.
    steps: Steps of a turn, at least.
  """
  times: dict[int, list[cost.Turn]] = {id(taker): [] for taker in every}
  for number in range(repeats + 1):
    for taker in every:
      turn = taker.turn(steps)
      if number:
        times[id(taker)].append(turn)
  return times


def spread(values: Any) -> dict[str, float]:
  """Returns the 'median', 'least' and 'most' of numbers."""
  return {
    'median': float(np.median(values)),
    'least': float(np.min(values)),
    'most': float(np.max(values)),
  }


def rate(amount: float, took: Sequence[cost.Turn]) -> dict[str, float]:
  """Returns the spread of a rate per second, over turns.

  Args:
    amount: The amount of one step, such as its images or FLOPs.
    took: The turns.
  """
  return spread([1e3 * amount / turn.ms for turn in took])


def row(
  one: case.Case,
  times: Times,
  first: case.Case,
  product: cost.Product | None,
) -> dict[str, Any]:
  """Returns the figures of a configuration.

  Args:
    one: The configuration.
    times: The times of all turns.
    first: The configuration that the ratio is relative to.
    product: The matrix product of the same dtype. If None, the row has no share
      of the chip's peak.
  """
  turns, costs = times[id(one)], one.costs
  share: dict[str, Any] = {}
  if product is not None:
    peak = product.flops / np.array([turn.ms for turn in times[id(product)]])
    ms = np.array([turn.ms for turn in turns])
    share['share'] = spread(costs.flops / ms / one.chips / peak)
  return {
    **_speed(one.label, one.batch_size, times, id(one), first),
    'dtype': one.dtype,
    'steps_per_dispatch': one.count,
    'teacher_ahead': one.ahead,
    'host_ms': float(np.median([turn.host_ms for turn in turns])),
    'compile_s': one.compile_s,
    'flops': costs.flops,
    'flops_per_s': rate(costs.flops, turns)['median'],
    **share,
    'compiled_flops': costs.compiled_flops,
    'compiled_bytes': costs.compiled_bytes,
    'memory_bytes': costs.memory_bytes,
    'memory_by': "XLA's analysis",
    'extra_params': one.extra_params,
    'kept_params': one.kept_params,
    'collective_bytes': costs.exchanged,
  }


def peer_row(peer: Any, times: Times) -> dict[str, Any]:
  """Returns the figures of a PyTorch peer, relative to its configuration."""
  paired = peer.ours
  speed = _speed(peer.label, paired.batch_size, times, id(peer), paired)
  return {**speed, **peer.about}


def _speed(
  label: str, images: int, times: Times, key: int, other: case.Case
) -> dict[str, Any]:
  """Returns images per second, and the time of an image relative to another's.

  Args:
    label: The name in the table.
    images: Images of a step.
    times: The times of all turns.
    key: The key of `times`.
    other: The configuration that the ratio is relative to.
  """
  turns = times[key]
  ms_per_image = np.array([turn.ms for turn in turns]) / images
  other_ms_per_image = (
    np.array([turn.ms for turn in times[id(other)]]) / other.batch_size
  )
  ratio = spread(ms_per_image / other_ms_per_image)
  return {
    'config': label,
    'batch_size': images,
    'ms': float(np.median([turn.ms for turn in turns])),
    'all_ms': [turn.ms for turn in turns],
    'images_per_s': rate(images, turns),
    'ratio': ratio['median'],
    'ratio_to': other.label,
    'least': ratio['least'],
    'most': ratio['most'],
  }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns the speeds as an aligned table."""
  first = rows[0]['config']
  paired = any(figures['ratio_to'] != first for figures in rows)
  against = (
    f"time to {first}; PyTorch's to its own" if paired else f'time to {first}'
  )
  head = (
    'configuration', 'images/s', 'spread', 'ms a step',
    against, 'spread', 'FLOP/s', 'of peak', 'host wait',
  )  # fmt: skip
  body = []
  for figures in rows:
    images, share = figures['images_per_s'], figures.get('share')
    has_flops = 'flops' in figures
    body.append(
      (
        figures['config'],
        f'{images["median"]:.4g}',
        f'{images["least"]:.4g}-{images["most"]:.4g}',
        f'{figures["ms"]:.4g}',
        f'{figures["ratio"]:.2f}',
        f'{figures["least"]:.2f}-{figures["most"]:.2f}',
        report.short(figures['flops_per_s']) if has_flops else '',
        f'{100 * share["median"]:.0f}%' if share else '',
        f'{figures["host_ms"]:.2g} ms' if has_flops else '',
      )
    )
  peaks = ', '.join(
    f'{dtype} {report.short(peak["median"])}FLOP/s '
    f'({report.short(peak["least"])}-{report.short(peak["most"])})'
    for dtype, peak in rows[0]['peak'].items()
  )
  return (
    f'{report.table([head, *body])}\npeak: a large matrix product, '
    f'{peaks or "not timed"}; FLOP/s are of what is asked for'
  )


def sizes(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns the sizes and costs as an aligned table."""
  head = (
    'configuration', 'dtype', 'compile', 'memory', 'FLOPs a step',
    'trained beside', 'kept', 'exchanged',
  )  # fmt: skip
  body = []
  for figures in rows:
    has_flops = 'flops' in figures
    body.append(
      (
        figures['config'],
        figures['dtype'],
        f'{figures["compile_s"]:.1f} s',
        _megabytes(figures['memory_bytes'] or None, 4),
        report.short(figures['flops']) if has_flops else '',
        report.short(figures['extra_params']),
        report.short(figures['kept_params']) if has_flops else '',
        _megabytes(figures.get('collective_bytes'), 3),
      )
    )
  sources = sorted(
    {figures['memory_by'] for figures in rows if figures['memory_bytes']}
  )
  source = ', '.join(sources) or 'this backend does not tell'
  return f'{report.table([head, *body])}\nmemory: {source}'


def _megabytes(size: float | None, digits: int) -> str:
  """Returns bytes as text, empty where they are unknown."""
  return '' if size is None else f'{size / 1e6:.{digits}g} MB'
