"""Knowledge distillation of image models in JAX.

Networks run on images; a method runs on their features. The parts for a loop of
your own:

  kd_jax.losses, kd_jax.methods, kd_jax.models, kd_jax.data
  kd_jax.Experiment, kd_jax.TrainState, kd_jax.init, kd_jax.train_step,
  kd_jax.predict_step

and whole runs, as the command `kd-jax` makes them:

  kd_jax.train(config, workdir), kd_jax.evaluate(path), kd_jax.load(path)
"""

import importlib
from typing import TYPE_CHECKING, Any

from kd_jax.version import __version__ as __version__

if TYPE_CHECKING:
  from kd_jax import config as config
  from kd_jax import data as data
  from kd_jax import losses as losses
  from kd_jax import methods as methods
  from kd_jax import models as models
  from kd_jax.distill.step import Experiment as Experiment
  from kd_jax.distill.step import TrainState as TrainState
  from kd_jax.distill.step import init as init
  from kd_jax.distill.step import predict_step as predict_step
  from kd_jax.distill.step import train_step as train_step
  from kd_jax.errors import RunError as RunError
  from kd_jax.errors import UsageError as UsageError
  from kd_jax.training.api import evaluate as evaluate
  from kd_jax.training.api import load as load
  from kd_jax.training.api import train as train
  from kd_jax.training.run import Interrupted as Interrupted

# Names with the modules that hold them; they are imported when they are used.
# A process that only decodes images shall not wait for the rest of kd_jax.
_ROOMS = ('config', 'data', 'losses', 'methods', 'models')
_NAMES = {
  'Experiment': 'distill.step',
  'Interrupted': 'training.run',
  'RunError': 'errors',
  'TrainState': 'distill.step',
  'UsageError': 'errors',
  'evaluate': 'training.api',
  'init': 'distill.step',
  'load': 'training.api',
  'predict_step': 'distill.step',
  'train': 'training.api',
  'train_step': 'distill.step',
}
__all__ = [
  'Experiment',
  'Interrupted',
  'RunError',
  'TrainState',
  'UsageError',
  'config',
  'data',
  'evaluate',
  'init',
  'load',
  'losses',
  'methods',
  'models',
  'predict_step',
  'train',
  'train_step',
]


def __getattr__(name: str) -> Any:
  if name in _ROOMS:
    return importlib.import_module(f'kd_jax.{name}')
  if name in _NAMES:
    return getattr(importlib.import_module(f'kd_jax.{_NAMES[name]}'), name)
  raise AttributeError(f'module kd_jax has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
