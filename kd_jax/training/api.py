"""Training, evaluation and loading as three functions, for use in a program."""

from collections.abc import Callable
import os
from typing import Any

from etils import epath
import jax
from ml_collections import ConfigDict

from kd_jax import data as data_lib
from kd_jax import errors
from kd_jax.export import artifact
from kd_jax.runtime import run_dir
from kd_jax.training import datasets, measure, restore, run

# XLA flags that forbid kernels with atomic sums and kernels chosen by timing.
# XLA accepts them on every backend, and reads them when a GPU backend starts.
DETERMINISTIC = (
  '--xla_gpu_deterministic_ops=true',
  '--xla_gpu_autotune_level=0',
)


def train(
  config: ConfigDict,
  workdir: epath.PathLike,
  *,
  should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
  """Trains a run to its end, from wherever its folder stands.

  Args:
    config: The configuration, such as a recipe of `configs/` returns.
    workdir: The run's folder: a new one, or the one of the same run.
    should_stop: Is asked before every dispatch whether to save and stop, and
      again and again while another run has a folder that this one needs.

  Returns:
    The content of the run's result.json: 'top1' and more.

  Raises:
    UsageError: The configuration cannot run here, or the folder holds another,
      or it wants a GPU deterministic and XLA_FLAGS lacks `DETERMINISTIC`; flags
      that were set after a GPU was used count, and do nothing.
    RunError: The run went wrong.
    kd_jax.Interrupted: `should_stop` said so; the same call goes on.
  """
  lacking = _flags(' '.join(DETERMINISTIC)) - _flags(
    os.environ.get('XLA_FLAGS', '')
  )
  if config.deterministic and lacking and jax.default_backend() == 'gpu':
    raise errors.UsageError(
      'config.deterministic=True: XLA reads its flags when a GPU is first '
      "used; set os.environ['XLA_FLAGS'] before, to "
      f'{" ".join(DETERMINISTIC)!r}, or start the run by a command'
    )
  data_lib.forget_changed()
  return run.train(config, run_dir.Folder(workdir), should_stop=should_stop)


def _flags(text: str) -> set[tuple[str, str]]:
  """Returns XLA flags as (name, value), however a value is spelt."""
  parted = (word.partition('=') for word in text.split())
  same = {'': 'true', '1': 'true'}
  return {(name, same.get(x.lower(), x.lower())) for name, _, x in parted}


def load(
  path: epath.PathLike, *, allow_imports: bool = False, ema: bool = False
) -> artifact.Trained:
  """Loads what a finished run deploys, or an export.

  Args:
    path: The folder of the run or of the export.
    allow_imports: Whether a run may name networks and methods by import paths,
      whose code then runs. Allow it only if you trust who made the run.
    ema: Whether to load the averaged parameters of a run (`config.ema`).

  Returns:
    `forward(weights, images)` maps images [N,H,W,3] u8 to logits [N,K] f32;
    `weights` holds arrays by path, and `facts` what is known of the network.

  Raises:
    UsageError: The path holds neither, or what it holds is damaged, or names
      code to import.
  """
  return restore.load(path, allow_imports=allow_imports, ema=ema)


def evaluate(
  trained: artifact.Trained | epath.PathLike,
  data: str = '',
  split: str = 'test',
  *,
  batch_size: int = 256,
  workers: int = 0,
  allow_imports: bool = False,
  eval_protocol: str = '',
) -> dict[str, Any]:
  """Measures a trained network on a split, every image once.

  Args:
    trained: What `load` returns, or the path that `load` takes.
    data: A data set by its name; '' is the one that it was trained on.
    split: 'train', 'val' or 'test'.
    batch_size: Images of a step.
    workers: Processes that decode; 0 decodes in this process.
    allow_imports: As for `load`; the data set may be an import path then, too.
    eval_protocol: How images with masks are evaluated: 'square', 'paper' or
      'original', as in `config.data.eval_protocol`. '' is as in the training,
      and 'square' of an export, which takes squares alone.

  Returns:
    'images' and 'correct' (counts), 'top1' (percent), of more than 5 classes
    'correct5' and 'top5' too, 'loss' (mean cross-entropy), and 'classes': the
    images, correct and top1 of each class. For images with masks there are
    'miou' and others in place of top-1, and 'protocol'. 'changed' says what has
    changed of the network's own data since its training; it is there only then.

  Raises:
    UsageError: The data set has no such split, or other classes, or cannot be
      evaluated so, or code would be imported that is not allowed.
    RunError: The network's logits are no finite numbers.
  """
  if not isinstance(trained, artifact.Trained):
    trained = load(trained, allow_imports=allow_imports)
  data_lib.forget_changed()
  opened = datasets.open_data(trained, data, allow_imports=allow_imports)
  splits = ('train', 'test', *(['val'] if opened.info.num_val else []))
  if split not in splits:
    raise errors.unknown('split', split, splits)
  images = opened.split(split)
  changed = '' if data else datasets.changed(trained, opened)
  return {
    **measure.accuracy(
      trained, images, opened.info, batch_size, workers, eval_protocol
    ),
    **({'changed': changed} if changed else {}),
  }
