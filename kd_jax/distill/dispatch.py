"""How many steps a dispatch has, and how far a teacher runs ahead in it."""

from collections.abc import Callable, Mapping
import math
from typing import Any, NamedTuple

import jax

from kd_jax import errors
from kd_jax.distill import inspect, jitted, memory, step
from kd_jax.distill.parts import Dispatch
from kd_jax.features import Features
from kd_jax.models import layers
from kd_jax.runtime import jaxprs

MOST_BYTES = 1e9  # that each device keeps for the steps of a group

_FILLING = 768 * 32**2  # pixels of a device's pass; more gain little
_LEAST_STEPS = 8  # of a dispatch, so that the host prepares the next in time


class Setting(NamedTuple):
  """What the steps of a dispatch depend on.

  Attributes:
    exp: The experiment.
    traced: Returns what tracing tells of it; it may be slow.
    platform: The devices' platform, such as 'cpu', 'gpu' or 'tpu'.
    devices: The number of devices that share a batch.
    image_size: Height and width in pixels.
    batch_size: Images of a step, over all devices.
    steps_per_epoch: Steps of an epoch.
    streams: Whether the host passes the images of a dispatch.
    cached: Whether a batch has the teachers' logits.
    steps: The steps that are asked for; 0 chooses them.
    ahead: The steps ahead that are asked for; 0 chooses them.
    seeds: Runs that train together, each with batches of its own.
    keeps_plain: Whether a batch has the images before mixing too.
  """

  exp: step.Experiment
  traced: Callable[[], inspect.Traced]
  platform: str
  devices: int
  image_size: int
  batch_size: int
  steps_per_epoch: int
  streams: bool = False
  cached: bool = False
  steps: int = 0
  ahead: int = 0
  seeds: int = 1
  keeps_plain: bool = False


def chosen(setting: Setting) -> Dispatch:
  """Returns the steps of a dispatch, as asked for or by the platform.

  On a GPU a teacher runs ahead if it sees each image by itself: as many steps
  as make a pass of up to 768 images of 32x32 pixels a device, if they divide
  the steps of a dispatch. On CPU and TPU it runs ahead only if asked to.

  Raises:
    UsageError: The teacher cannot run so far ahead.
  """
  steps = _steps(setting, 1)
  if not setting.exp.teachers or setting.ahead == 1:
    return Dispatch(steps)
  if setting.ahead:
    return _asked(setting)
  if setting.platform in ('cpu', 'tpu') or setting.cached:
    return Dispatch(steps)
  exp, side = setting.exp, setting.image_size
  side = max(exp.sizes.get(name, side) for name in exp.teachers)
  pixels = side**2 * setting.batch_size * setting.seeds // setting.devices
  if (most := _FILLING // pixels) < 2:
    return Dispatch(steps)
  if why := _obstacle(setting, trusts=False):
    return Dispatch(steps, note=f'the teacher runs step by step: {why}')
  taps, size = kept(setting)
  for ahead in range(int(min(most, MOST_BYTES // size)), 1, -1):
    of_dispatch = _steps(setting, ahead)
    if of_dispatch >= min(steps, _LEAST_STEPS):
      return Dispatch(of_dispatch, ahead, _note(setting, ahead, taps, size))
  return Dispatch(steps)


def _steps(setting: Setting, multiple: int) -> int:
  """Returns the steps of a dispatch that `multiple` divides; 0 if none do."""
  if setting.steps:
    return 0 if setting.steps % multiple else setting.steps
  image = setting.image_size**2 * 3
  return jitted.steps_per_dispatch(
    setting.platform,
    setting.steps_per_epoch,
    setting.batch_size * image if setting.streams else 0,
    multiple,
  )


def _asked(setting: Setting) -> Dispatch:
  """Returns the dispatch with the steps ahead that are asked for."""
  ahead = setting.ahead
  if why := _obstacle(setting, trusts=True):
    raise errors.ArgumentError(f'teacher_ahead={ahead}: {why}; give 1')
  steps = _steps(setting, ahead) or _steps(setting, 1)
  if ahead > steps:
    raise errors.ArgumentError(
      f'teacher_ahead={ahead}: a dispatch has {steps} here, and must have as '
      f'many: give at most {steps}, or config.steps_per_dispatch={ahead}'
    )
  taps, size = kept(setting)
  if ahead * size > MOST_BYTES:
    raise errors.ArgumentError(
      f'teacher_ahead={ahead}: each device would keep '
      f'{memory.size(ahead * size)} of batches and features, and '
      f'{memory.size(MOST_BYTES)} is the most: give at most '
      f'{max(1, int(MOST_BYTES // size))}'
    )
  return Dispatch(steps, ahead, _note(setting, ahead, taps, size))


def _obstacle(setting: Setting, *, trusts: bool) -> str:
  """Returns why a teacher cannot run ahead; '' if it can.

  Args:
    setting: The setting.
    trusts: Whether networks from elsewhere are taken to see each image by
      itself.
  """
  if setting.cached:
    return 'its logits are cached, and it does not run'
  for name, network in setting.exp.teachers.items():
    if getattr(network, 'batch_norm', 'auto') == 'batch':
      return f"{name} normalises with its batch's statistics"
    if not trusts and not isinstance(network, layers.Network):
      return (
        f'{name} is a network from elsewhere, which may not see each image by '
        'itself (config.teacher_ahead=8 says that it does)'
      )
    for tap, x in setting.traced().features[name].items():
      if tap != 'params' and x.shape[:1] != (setting.batch_size,):
        return f'its tap {tap} {x.shape} does not begin with the images'
  return ''


def kept(setting: Setting) -> tuple[list[str], int]:
  """Returns what is kept for one step, if the teachers run ahead of it.

  Args:
    setting: The setting.

  Returns:
    The taps that the method reads, such as 'teacher logits', and the bytes of
    them and of the batch on each device, for all seeds.
  """
  traced = setting.traced()
  batch = inspect.example(
    setting.image_size, setting.batch_size, setting.exp.method.task
  )
  reads = _read(setting.exp, traced, batch)
  arrays = [
    *batch.values(),
    *[batch['image']] * setting.keeps_plain,
    *(traced.features[name][tap] for name, tap in reads),
  ]
  size = sum(math.prod(x.shape) * x.dtype.itemsize for x in arrays)
  size *= setting.seeds
  return [f'{name} {tap}' for name, tap in reads], -(-size // setting.devices)


def _read(
  exp: step.Experiment, traced: inspect.Traced, batch: Mapping[str, Any]
) -> list[tuple[str, str]]:
  """Returns the teachers' taps that the method's losses depend on.

  Args:
    exp: The experiment.
    traced: What tracing tells of it.
    batch: Shapes and dtypes of a batch.
  """
  taught = {
    (name, tap): x
    for name in exp.teachers
    for tap, x in traced.features[name].items()
    if tap != 'params'
  }
  others = {
    name: {tap: x for tap, x in feats.items() if (name, tap) not in taught}
    for name, feats in traced.features.items()
  }

  def losses(taps, others, variables, collections, batch):
    feats = {name: Features(name, dict(x)) for name, x in others.items()}
    for (name, tap), x in zip(taught, taps, strict=True):
      feats[name][tap] = x
    return exp.method.apply(
      {'params': variables, **collections},
      feats,
      batch,
      rngs=step.rngs(jax.random.key(0)),
      mutable=['metrics', *collections],
    )

  _, used = jaxprs.pruned(
    jax.make_jaxpr(losses)(
      list(taught.values()),
      others,
      traced.state.params['method'],
      traced.state.model_state['method'],
      dict(batch),
    )
  )
  return [where for where, read in zip(taught, used, strict=False) if read]


def _note(setting: Setting, ahead: int, taps: list[str], size: int) -> str:
  return (
    f'the teacher runs {ahead} steps ahead, in passes of '
    f'{ahead * setting.batch_size * setting.seeds} images; a device keeps '
    f'{memory.size(ahead * size)}: batches, {", ".join(taps) or "no features"}'
  )
