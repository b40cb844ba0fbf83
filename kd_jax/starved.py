"""Whether a run waits for its data, and what to change then."""

from collections.abc import Mapping, Sequence
from concurrent import futures
import math
import os
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from kd_jax import build, jaxprs
from kd_jax.data import dataset

MOST = 0.1  # of the time may be spent waiting before a run says so
STRETCH_S = 20.0  # seconds of steps that are judged together
_LARGER = 1.3  # times the size that is needed, from where scaling pays


class Device:
  """When the devices have nothing to do.

  The host gets the next batches while the devices still work on the last ones:
  of its wait only what is left when they are done costs time.
  """

  def __init__(self) -> None:
    """Starts with nothing to do."""
    self._thread = futures.ThreadPoolExecutor(1)
    self._done: futures.Future[float] | None = None

  def works_on(self, outputs: Any) -> None:
    """Takes in what was started last."""
    self._done = self._thread.submit(_done_at, outputs)

  def idle(self, began: float, now: float) -> float:
    """Seconds without work, of those from `began` until `now`."""
    if self._done is None:
      return now - began
    if not self._done.done():
      return 0.0
    return now - min(now, max(began, self._done.result()))

  def close(self) -> None:
    """Ends its thread, once the devices are done."""
    self._thread.shutdown(wait=False)


def _done_at(outputs: Any) -> float:
  jax.block_until_ready(outputs)
  return time.monotonic()


class Stretch:
  """What share of its steps' time a run waits, stretch by stretch."""

  def __init__(self) -> None:
    """The first dispatch does not count: processes start, XLA compiles."""
    self._before: tuple[float, float] | None = None

  def share(self, seconds: Mapping[str, float]) -> float:
    """Of the stretch that ends now; 0 while it goes on.

    Args:
      seconds: of a `metrics.Clock`, after a dispatch.
    """
    now = (seconds.get('waiting for data', 0.0), seconds.get('training', 0.0))
    if self._before is None:
      self._before = now
    waited, worked = (b - a for a, b in zip(self._before, now, strict=True))
    if waited + worked < STRETCH_S:
      return 0.0
    self._before = now
    return waited / (waited + worked)


def text(share: float, cures: Sequence[str]) -> str:
  """What a run says of it: one line."""
  said = f'the devices wait for data {100 * share:.0f}% of the time'
  return said + (f'; what helps: {"; ".join(cures)}' if cures else '')


def cures(
  config: ConfigDict, parts: build.Parts, train: dataset.TrainSet
) -> list[str]:
  """What to change where a run waits for its data, of what applies to it.

  Args:
    config: of the run.
    parts: of the run.
    train: the training split; of one on the devices nothing is to be said.
  """
  if train.arrays:
    return []
  given, info = config.data, parts.source.info
  found = []
  images = info.num_train + info.num_val + info.num_test
  size = images * info.image_size**2 * 3
  crop = given.augment == 'random_resized_crop'  # needs the whole images
  if not crop and size < _free_bytes(parts.mesh.local_devices[0]):
    megabytes = math.ceil(size / 1e6)
    found.append(
      f'config.data.device_mb={megabytes} keeps the images on the device'
    )
  cores = _cores()
  if given.workers < cores:
    found.append(
      f'config.data.workers={cores} decodes on all {cores} cores, not '
      f'{given.workers}'
    )
  image, _ = parts.source.split('train').read(0)
  side, wanted = min(image.shape[:2]), round(info.image_size * 8 / 7)
  if side > _LARGER * wanted:
    found.append(
      f'images that are scaled down beforehand, to {wanted} pixels on the '
      f'shorter side (the first one has {side}), are decoded faster'
    )
  if not found:
    found.append(f'more cores than {cores}')
  if info.name.startswith('folder:'):
    found.append('a local disk, or data prepared as array_record')
  return found


def _cores() -> int:
  """Cores that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _free_bytes(device: jax.Device) -> float:
  """Memory of a device that the run leaves; of a CPU nobody knows it."""
  known = jaxprs.memory(device)
  return known.get('bytes_limit', 0) - known.get('peak_bytes_in_use', 0)
