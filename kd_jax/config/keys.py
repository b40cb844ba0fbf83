"""What a key of a configuration is, and the keys of how a run computes.

Those of what is trained are in `schema`, which has all of them.
"""

from typing import Any, NamedTuple


class Key(NamedTuple):
  """One key of a configuration.

  Attributes:
    path: Where it stands, such as 'data.name'.
    default: Its value in `default()`.
    help: What it means, in a line or two.
    choices: The values that are allowed; () where they are not listed.
    changes_result: Whether another value gives another result. What says only
      where and how often something is computed or written does not.
    for_teacher: Whether a teacher that is trained for a run takes its value
      from the run and not from its own recipe.
    added: Whether runs of older versions lack it. It identifies a run only
      where it is not the default.
  """

  path: str
  default: Any
  help: str
  choices: tuple[Any, ...] = ()
  changes_result: bool = True
  for_teacher: bool = False
  added: bool = False


# Where, how often and how a run computes, evaluates, writes and saves.
RUNNING = (
  Key(
    'mesh.data', -1, 'Devices; -1 takes all.',
    changes_result=False, for_teacher=True,
  ),
  Key(
    'steps_per_dispatch', 0,
    'Steps that a device takes without the host; 0 is 1 on a CPU and many on '
    'GPU and TPU.',
    changes_result=False,
  ),
  Key(
    'teacher_ahead', 0,
    "Steps of a dispatch whose teacher's features come from one forward pass; "
    '0 is 1 on CPU and TPU, and on a GPU what fills it.',
    changes_result=False, added=True,
  ),
  Key(
    'eval_batch_size', 512, 'Images of a step of the evaluation.',
    changes_result=False, for_teacher=True,
  ),
  Key('eval_every', 1.0, 'Epochs from one evaluation to the next.'),
  Key(
    'checkpoint_every', 1.0, 'Epochs from one checkpoint to the next.',
    changes_result=False,
  ),
  Key(
    'checkpoint_seconds', 20.0,
    'A checkpoint waits until so many seconds have passed since the last one; '
    'the last step is always saved. 0 does not wait.',
    changes_result=False, for_teacher=True,
  ),
  Key(
    'log_every', 100,
    'Steps from one point of the curves to the next, in metrics.jsonl and '
    'wherever `loggers` write; 0 logs epochs alone.',
    changes_result=False, for_teacher=True,
  ),
  Key(
    'loggers', ('tensorboard',),
    "Where the curves go besides metrics.jsonl: any of 'tensorboard', 'wandb' "
    "and 'mlflow' (pip install 'kd_jax[wandb]', 'kd_jax[mlflow]'), and a "
    "writer of your own as 'package.module:Class'; () is none.",
    changes_result=False, for_teacher=True,
  ),
  Key(
    'deterministic', False,
    'Two runs on the same hardware are bit-identical, on a GPU too, where it '
    'costs speed; on CPU and TPU they are anyway.',
    changes_result=False, for_teacher=True,
  ),
  Key(
    'watchdog_seconds', 1800.0,
    'A process that finishes no step for so long is ended (compiling, '
    'evaluating and saving count); 0 waits for ever.',
    changes_result=False, for_teacher=True,
  ),
  Key(
    'heartbeat_timeout_seconds', 100,
    'Of several processes: how long one may give no sign of life.',
    changes_result=False, for_teacher=True,
  ),
  Key(
    'cache_dir', '', "'' is $KD_JAX_CACHE, or else ~/.cache/kd_jax.",
    changes_result=False, for_teacher=True,
  ),
)  # fmt: skip
