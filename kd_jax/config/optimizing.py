"""The keys of the optimizer."""

from ml_collections import ConfigDict

from kd_jax.config.keys import Key
from kd_jax.config.values import step_schedule

KEYS = (
  Key('optimizer.name', 'sgd', 'An optimizer; see `kd-jax list optimizers`.'),
  Key(
    'optimizer.args', ConfigDict(),
    "Further arguments of that optimizer; see `kd-jax list optimizers`.",
    added=True,
  ),
  Key(
    'optimizer.learning_rate', step_schedule(0.05, (150, 180, 210)),
    'A number or a schedule.',
  ),
  Key('optimizer.momentum', 0.9, "SGD's momentum."),
  Key('optimizer.nesterov', False, "Nesterov's momentum."),
  Key(
    'optimizer.reset_momentum_at', (),
    'Epochs at which the momentum starts at 0 again.',
  ),
  Key(
    'optimizer.weight_decay', 5e-4,
    "Of every parameter, as PyTorch's; see `kd-jax list optimizers`.",
  ),
  Key(
    'optimizer.decay_norms', True,
    "Whether biases and the scales of norms decay, and have LAMB's and LARS's "
    'trust ratio.',
    added=True,
  ),
  Key(
    'optimizer.clip_norm', 0.0,
    'The greatest norm of all gradients together; 0 is off.',
  ),
  Key(
    'optimizer.rules', (),
    '((regular expression, {field: value}), ...): the first that is found in '
    "a parameter's path changes these fields for it. A learning_rate "
    "{'kind': 'scaled', 'factor': f} is the schedule of the others, times f.",
  ),
)  # fmt: skip
