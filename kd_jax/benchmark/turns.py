"""Whatever can take a turn takes turns; figures and tables of their times."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kd_jax.benchmark import case, cost
from kd_jax.training import report

# By the id of who took them, in the order of the rounds.
Times = Mapping[int, Sequence[cost.Turn]]


def take(every: Sequence[Any], repeats: int, steps: int) -> Times:
  """Rounds in which each takes its turn, after one that does not count.

  Args:
    every: each has `turn(steps)` to a `cost.Turn`.
    repeats: rounds that count.
    steps: of a turn, at least.
  """
  times: dict[int, list[cost.Turn]] = {id(one): [] for one in every}
  for number in range(repeats + 1):
    for one in every:
      took = one.turn(steps)
      if number:
        times[id(one)].append(took)
  return times


def spread(values: Any) -> dict[str, float]:
  """'median', 'least' and 'most' of numbers."""
  return {
    'median': float(np.median(values)),
    'least': float(np.min(values)),
    'most': float(np.max(values)),
  }


def rate(amount: float, took: Sequence[cost.Turn]) -> dict[str, float]:
  """`amount` of each step, a second; see `spread`."""
  return spread([1e3 * amount / turn.ms for turn in took])


def row(
  one: case.Case,
  times: Times,
  first: case.Case,
  product: cost.Product | None,
) -> dict[str, Any]:
  """The figures of a configuration.

  Args:
    one: the configuration.
    times: of everyone.
    first: what the ratio is to.
    product: the matrix product of the same dtype; None where it was not
      timed, and the row has no share of it.
  """
  took, costs = times[id(one)], one.costs
  share: dict[str, Any] = {}
  if product is not None:
    peak = product.flops / np.array([turn.ms for turn in times[id(product)]])
    ms = np.array([turn.ms for turn in took])
    share['share'] = spread(costs.flops / ms / one.chips / peak)
  return {
    **_speed(one.label, one.batch_size, times, id(one), first),
    'dtype': one.dtype,
    'steps_per_dispatch': one.count,
    'host_ms': float(np.median([turn.host_ms for turn in took])),
    'compile_s': one.compile_s,
    'flops': costs.flops,
    'flops_per_s': rate(costs.flops, took)['median'],
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
  """The figures of a PyTorch peer, beside the configuration it pairs with."""
  ours = peer.ours
  speed = _speed(peer.label, ours.batch_size, times, id(peer), ours)
  return {**speed, **peer.about, 'memory_by': "PyTorch's peak"}


def _speed(
  label: str, images: int, times: Times, key: int, other: case.Case
) -> dict[str, Any]:
  """Images a second, and the time of an image against another's."""
  took = times[key]
  each = np.array([turn.ms for turn in took]) / images
  theirs = np.array([turn.ms for turn in times[id(other)]]) / other.batch_size
  ratio = spread(each / theirs)
  return {
    'config': label,
    'batch_size': images,
    'ms': float(np.median([turn.ms for turn in took])),
    'all_ms': [turn.ms for turn in took],
    'images_per_s': rate(images, took),
    'ratio': ratio['median'],
    'ratio_to': other.label,
    'least': ratio['least'],
    'most': ratio['most'],
  }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
  """How fast each is."""
  first = rows[0]['config']
  paired = any(each['ratio_to'] != first for each in rows)
  against = (
    f"time to {first}; PyTorch's to its own" if paired else f'time to {first}'
  )
  head = (
    'configuration', 'images/s', 'spread', 'ms a step',
    against, 'spread', 'FLOP/s', 'of peak', 'host wait',
  )  # fmt: skip
  body = []
  for each in rows:
    images, share = each['images_per_s'], each.get('share')
    ours = 'flops' in each
    body.append(
      (
        each['config'],
        f'{images["median"]:.4g}',
        f'{images["least"]:.4g}-{images["most"]:.4g}',
        f'{each["ms"]:.4g}',
        f'{each["ratio"]:.2f}',
        f'{each["least"]:.2f}-{each["most"]:.2f}',
        report.short(each['flops_per_s']) if ours else '',
        f'{100 * share["median"]:.0f}%' if share else '',
        f'{each["host_ms"]:.2g} ms' if ours else '',
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
  """How large each is."""
  head = (
    'configuration', 'dtype', 'compile', 'memory', 'FLOPs a step',
    'trained beside', 'kept', 'exchanged',
  )  # fmt: skip
  body = []
  for each in rows:
    ours = 'flops' in each
    body.append(
      (
        each['config'],
        each['dtype'],
        f'{each["compile_s"]:.1f} s',
        _megabytes(each['memory_bytes'] or None, 4),
        report.short(each['flops']) if ours else '',
        report.short(each['extra_params']),
        report.short(each['kept_params']) if ours else '',
        _megabytes(each.get('collective_bytes'), 3),
      )
    )
  sources = sorted({each['memory_by'] for each in rows if each['memory_bytes']})
  told = ', '.join(sources) or 'this backend does not tell'
  return f'{report.table([head, *body])}\nmemory: {told}'


def _megabytes(size: float | None, digits: int) -> str:
  """Returns bytes as text, empty where they are unknown."""
  return '' if size is None else f'{size / 1e6:.{digits}g} MB'
