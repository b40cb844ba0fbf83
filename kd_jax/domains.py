"""What numbers an argument, a field or a key may be: one table for each.

A value outside of its domain is refused when it is given, and not by a NaN or a
division by zero in the middle of a run.
"""

from collections.abc import Mapping
import inspect
import math
import numbers
from typing import Any, NamedTuple

import numpy as np

from kd_jax import errors

_LONGEST = 100  # characters of a value in a message
_GREATEST = float(np.finfo(np.float32).max)


class Domain(NamedTuple):
  """The numbers or names that a value may be; of a tuple, each of its values.

  Attributes:
    allowed: What is allowed, in words.
    least: The least number.
    most: The greatest number.
    open_below: Whether `least` itself is not allowed.
    open_above: Whether `most` itself is not allowed.
    whole: Whether only whole numbers are allowed.
    names: Strings that are allowed too.
  """

  allowed: str
  least: float = -math.inf
  most: float = math.inf
  open_below: bool = False
  open_above: bool = False
  whole: bool = False
  names: tuple[str, ...] = ()

  def has(self, value: Any) -> bool:
    """Returns whether a value, or each value of a tuple, is allowed."""
    if isinstance(value, tuple | list):
      return all(map(self.has, value))
    if isinstance(value, str):
      return value in self.names
    kind = numbers.Integral if self.whole else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
      return False
    number: Any = value  # of any size: float() would overflow
    above = number > self.least if self.open_below else number >= self.least
    below = number < self.most if self.open_above else number <= self.most
    return bool(above and below and abs(number) <= self._representable)

  @property
  def _representable(self) -> float:
    """The greatest int32 or float32, as which devices have the number."""
    return 2**31 - 1 if self.whole else _GREATEST

  def cure(self, value: Any) -> str:
    """Returns what is allowed, for the message about a value that is not."""
    many = isinstance(value, tuple | list)
    values = value if many else (value,)
    each = ' each' if many else ''
    real: list[Any] = [v for v in values if isinstance(v, numbers.Real)]
    if any(self._representable < abs(v) < math.inf for v in real):
      return f'{self.allowed}{each}, of at most {self._representable:.10g}'
    return f'{self.allowed}{each}'


POSITIVE = Domain('a number above 0', 0, open_below=True)
NOT_NEGATIVE = Domain('a number of 0 or more', 0)
FRACTION = Domain('a fraction from 0 to 1', 0, 1)
PART = Domain('0 to less than 1', 0, 1, open_above=True)
PERCENT = Domain('a percentage from 0 to 100', 0, 100)
COUNT = Domain('a whole number, 1 or more', 1, whole=True)
COUNT_OR_NONE = Domain('a whole number, 0 or more', 0, whole=True)
SECONDS = Domain('seconds, 0 to 1000000000', 0, 1e9)
PIXELS = Domain('0 to 32768 pixels', 0, 32768, whole=True)
LAYERS = Domain('a whole number, 1 to 10000', 1, 10_000, whole=True)
SEED = Domain('a whole number, 0 to 2147483647', 0, 2**31 - 1, whole=True)
STUDENTS = Domain('a whole number, 2 to 1000', 2, 1000, whole=True)
STAGE = Domain(
  "a whole number, 1 to 10000, 'aspp' or 'decoder'",
  1,
  10_000,
  whole=True,
  names=('aspp', 'decoder'),
)
BLOCKS = Domain(
  "a whole number, 0 to 10000, 'relu', 'hardswish' or 'silu'",
  0,
  10_000,
  whole=True,
  names=('relu', 'hardswish', 'silu'),
)
FINITE = Domain('a finite number')

# By the name of a method's field.
METHODS: dict[str, Domain] = {
  'alpha': NOT_NEGATIVE,
  'beta': NOT_NEGATIVE,
  'bn_group_size': COUNT_OR_NONE,
  'common_students': STUDENTS,
  'contrast_temperature': POSITIVE,
  'dist_temperature': POSITIVE,
  'divisors': POSITIVE,
  'epsilon': POSITIVE,
  'factor': COUNT,
  'least_variance': POSITIVE,
  'margin': NOT_NEGATIVE,
  'max_width': COUNT,
  'momentum': FRACTION,
  'negatives': COUNT,
  'num_classes': COUNT_OR_NONE,
  'projectors': LAYERS,
  'rate': POSITIVE,
  'se_reduction': COUNT,
  'slope': FRACTION,
  'stages': STAGE,
  'teacher_stages': STAGE,
  'teacher_weights': POSITIVE,
  'temperature': POSITIVE,
  'variance': POSITIVE,
  'widened': COUNT,
  'width': COUNT,
}

# By the name of a network's field.
NETWORKS: dict[str, Domain] = {
  'alpha': NOT_NEGATIVE,
  'aspp_width': COUNT,
  'blocks': BLOCKS,
  'bn_group_size': COUNT_OR_NONE,
  'decoder_width': COUNT,
  'depth': LAYERS,
  'dilations': COUNT,
  'drop_path': PART,
  'embedding': COUNT,
  'expansion': COUNT,
  'extras': COUNT,
  'grid': COUNT,
  'group_width': COUNT,
  'groups': COUNT,
  'growth': COUNT,
  'heads': COUNT,
  'hidden': COUNT,
  'image_size': COUNT,
  'last_width': COUNT,
  'layer_scale': POSITIVE,
  'low_width': COUNT,
  'native_size': COUNT,
  'num_classes': COUNT,
  'output_stride': COUNT,
  'patch': COUNT,
  'stage_sizes': LAYERS,
  'stages': LAYERS,
  'stem_width': COUNT,
  'widen': COUNT,
  'width': POSITIVE,
  'widths': COUNT,
  'window': COUNT,
}

# By the name of an optimizer's argument; switches are no numbers, and have any.
OPTIMIZERS: dict[str, Domain] = {
  **dict.fromkeys(
    ('adam_b1', 'adam_b2', 'b1', 'b2', 'b3', 'beta', 'decay', 'decay_rate',
     'momentum', 'rho'),
    PART,
  ),
  **dict.fromkeys(
    ('adam_eps_root', 'eps', 'eps_root', 'initial_accumulator_value',
     'initial_scale'),
    NOT_NEGATIVE,
  ),
  **dict.fromkeys(('clipping_threshold', 'threshold', 'trust_coefficient'),
                  POSITIVE),
  **dict.fromkeys(('min_dim_size_to_factor', 'ns_steps'), COUNT),
  'decay_offset': COUNT_OR_NONE,
  **dict.fromkeys(
    ('adaptive', 'bias_correction', 'bias_correction_mu', 'bias_correction_nu',
     'centered', 'eps_in_sqrt', 'factored', 'multiply_by_parameter_scale',
     'nesterov'),
    FINITE,
  ),
}  # fmt: skip

# By the name of a schedule's field.
SCHEDULES: dict[str, Domain] = {
  'epochs': POSITIVE,
  'factor': NOT_NEGATIVE,
  'first': NOT_NEGATIVE,
  'floor': NOT_NEGATIVE,
  'milestones': NOT_NEGATIVE,
  'power': POSITIVE,
  'start': NOT_NEGATIVE,
  'value': NOT_NEGATIVE,
  'warmup_epochs': NOT_NEGATIVE,
}

# By the path of a configuration's key; where the batch, the data or the devices
# are known other checks follow.
KEYS: dict[str, Domain] = {
  'accumulate_steps': COUNT,
  'batch_size': COUNT,
  'bn_group_size': COUNT_OR_NONE,
  'checkpoint_every': POSITIVE,
  'checkpoint_seconds': SECONDS,
  'data.area': FRACTION,
  'data.color_jitter': NOT_NEGATIVE,
  'data.crop_padding': PIXELS,
  'data.cutmix': NOT_NEGATIVE,
  'data.device_mb': NOT_NEGATIVE,
  'data.erasing': FRACTION,
  'data.image_size': PIXELS,
  'data.label_smoothing': PART,
  'data.mean': FRACTION,
  'data.mix_prob': FRACTION,
  'data.mix_switch': FRACTION,
  'data.mixup': NOT_NEGATIVE,
  'data.pad_label': Domain('0 or 255', 0, 255, whole=True),
  'data.policy_level': Domain('a whole number, 0 to 30', 0, 30, whole=True),
  'data.policy_ops': Domain('a whole number, 1 to 100', 1, 100, whole=True),
  'data.scale': Domain('a whole number, 1 to 16384', 1, 16384, whole=True),
  'data.std': POSITIVE,
  'data.train_size': COUNT_OR_NONE,
  'data.val_fraction': PART,
  'data.workers': Domain('a whole number, 0 to 1024', 0, 1024, whole=True),
  'ema': PART,
  'epochs': COUNT,
  'eval_batch_size': COUNT,
  'eval_every': POSITIVE,
  'heartbeat_timeout_seconds': COUNT,
  'log_every': COUNT_OR_NONE,
  'mesh.data': Domain('-1, or a whole number of 1 or more', -1, whole=True),
  'optimizer.clip_norm': NOT_NEGATIVE,
  'optimizer.momentum': FRACTION,
  'optimizer.reset_momentum_at': NOT_NEGATIVE,
  'optimizer.weight_decay': NOT_NEGATIVE,
  'seed': SEED,
  'steps_per_dispatch': COUNT_OR_NONE,
  'teacher.expected_top1': PERCENT,
  'teacher.image_size': PIXELS,
  'teacher.mean': FRACTION,
  'teacher.std': POSITIVE,
  'teacher_ahead': COUNT_OR_NONE,
  'watchdog_seconds': SECONDS,
}

# The keys whose value is a tuple of numbers.
_TUPLES = {
  'data.area', 'data.color_jitter', 'data.mean', 'data.scale', 'data.std',
  'optimizer.reset_momentum_at',
  'teacher.mean', 'teacher.std',
}  # fmt: skip


def check(name: str, value: Any, domain: Domain) -> None:
  """Checks that a value is within its domain.

  Args:
    name: What its user calls it.
    value: The value.
    domain: Its domain.

  Raises:
    UsageError: It is not.
  """
  if not domain.has(value):
    text = repr(value)
    if len(text) > _LONGEST:
      text = f'{text[:_LONGEST]}...'
    raise errors.ArgumentError(f'{name}={text}: give {domain.cure(value)}')


def check_key(path: str, value: Any, name: str = '') -> None:
  """Checks the value of a configuration's key, if it has a domain.

  Args:
    path: The key's path, such as 'data.val_fraction'.
    value: Its value.
    name: What its user calls it; '' is the path.

  Raises:
    UsageError: The value is not within the domain.
  """
  if path not in KEYS:
    return
  is_many = isinstance(value, tuple | list)
  if is_many != (path in _TUPLES):
    wanted = KEYS[path].allowed
    raise errors.ArgumentError(
      f'{name or path}={value!r}: give '
      + (f'{wanted}, and one alone' if is_many else f'a tuple, each {wanted}')
    )
  check(name or path, value, KEYS[path])


def check_fields(
  cls: Any, values: Mapping[str, Any], table: Mapping[str, Domain]
) -> None:
  """Checks the values of a class's fields, where they are those of kd_jax.

  A field that the user's own class declares may be anything.

  Args:
    cls: The class of a method or a network.
    values: Values by the names of fields.
    table: The domains by the names of fields, such as `METHODS`.

  Raises:
    UsageError: A value is not within its domain, is not True or False where
      it is to be, or a string where it is to be a tuple of strings.
  """
  for name, value in values.items():
    kind = _declared(cls, name)
    if kind is bool and not isinstance(value, bool):
      raise errors.ArgumentError(f'{name}={value!r}: give True or False')
    if kind == tuple[str, ...] and isinstance(value, str):
      raise errors.ArgumentError(
        f'{name}={value!r}: give a tuple of names, such as ({value!r},)'
      )
    if kind is not None and name in table:
      check(name, value, table[name])


def _declared(cls: Any, name: str) -> Any:
  """Returns the annotation of a field in a class of kd_jax, or else None."""
  for base in cls.__mro__:
    annotations = inspect.get_annotations(base)
    if name in annotations:
      ours = base.__module__.split('.')[0] == __name__.split('.')[0]
      return annotations[name] if ours else None
  return None
