"""Every key of a configuration: its default, its values and what it means.

A configuration is an `ml_collections.ConfigDict`. Files in `configs/` start
from `default()` and change what their paper changes. `kd-jax list keys` prints
this table.
"""

import copy

from ml_collections import ConfigDict

from kd_jax.config import augmentation
from kd_jax.config.key import Key as Key
from kd_jax.config.values import network as network
from kd_jax.config.values import step_schedule as step_schedule
from kd_jax.config.values import warmed_up as warmed_up

DTYPES = ('float32', 'bfloat16')

KEYS = (
  Key(
    'recipe', '', 'The name of the recipe that was chosen.',
    changes_result=False,
  ),
  Key('method', 'ce', "A method's name, or package.module:Class."),
  Key('method_args', ConfigDict(), "Fields of the method's class."),
  Key(
    'weights', ConfigDict({'ce': 1.0}),
    'For each loss term a number or a schedule; 0.0 switches it off.',
  ),
  Key('seed', 0, 'Decides initialisation, order, crops and flips.'),
  Key('epochs', 240, 'Epochs of floor(images / batch_size) steps.'),
  Key('batch_size', 64, 'Images of a step, over all devices.'),
  Key(
    'accumulate_steps', 1,
    'Parts of a batch that are computed one after the other for one update, '
    'to fit a small device. BatchNorm and losses over a batch see a part.',
  ),
  Key(
    'bn_group_size', 0,
    "Images that share BatchNorm statistics, in networks and in the method's "
    'adapters; 0 is the whole batch.',
  ),
  Key(
    'dtype', 'float32', 'What networks compute in.', DTYPES, for_teacher=True
  ),
  Key('data.name', 'cifar100', 'A data set; see `kd-jax list data`.',
      for_teacher=True),
  Key(
    'data.train_size', 0,
    'A fixed stratified subset of the training images; 0 keeps all.',
    for_teacher=True,
  ),
  Key(
    'data.val_fraction', 0.0,
    'The fraction of the training images that is held out for choosing.',
    for_teacher=True,
  ),
  Key('data.image_size', 0, "Pixels; 0 keeps the images' own size.",
      for_teacher=True),
  Key('data.mean', (), "Of pixels in 0..1; () takes the data set's.",
      for_teacher=True),
  Key('data.std', (), "Of pixels in 0..1; () takes the data set's.",
      for_teacher=True),
  Key(
    'data.data_dir', '',
    "Where data is prepared; '' is $TFDS_DATA_DIR, or else "
    '~/tensorflow_datasets.',
    changes_result=False, for_teacher=True,
  ),
  Key(
    'data.archive', '', "The data set's archive, if you have it.",
    changes_result=False, for_teacher=True,
  ),
  Key(
    'data.any_checksum', False, 'Takes that archive whatever its checksum.',
    changes_result=False, for_teacher=True,
  ),
  Key(
    'data.device_mb', 4096,
    'MB of images that may live on the device; a larger split is streamed.',
    changes_result=False, for_teacher=True,
  ),
  Key('data.workers', 2, 'Processes that decode a streamed split.',
      changes_result=False, for_teacher=True),
  Key(
    'data.augment', 'crop_flip', 'How training images are cropped.',
    ('crop_flip', 'random_resized_crop', 'segmentation'), for_teacher=True,
  ),
  Key(
    'data.area', (0.08, 1.0),
    'The least and the greatest area of a random_resized_crop.',
    for_teacher=True,
  ),
  Key(
    'data.scale', (256, 1026),
    'The least and the greatest shorter side, in pixels, to which augment='
    "'segmentation' scales an image before it crops `image_size`.",
    for_teacher=True, added=True,
  ),
  Key(
    'data.pad_label', 0,
    "The label around an image that is smaller than its crop of augment="
    "'segmentation': 0, the background, which counts, or 255, which does not.",
    (0, 255), for_teacher=True, added=True,
  ),
  Key(
    'data.crop_padding', 4, 'Pixels around an image before a crop_flip.',
    for_teacher=True,
  ),
  Key(
    'data.padding_mode', 'zero', 'What these pixels are, before normalisation.',
    ('zero', 'reflect'), for_teacher=True,
  ),
  Key('data.flip', True, 'Flips half of the images.', for_teacher=True),
  *augmentation.KEYS,
  Key('student.name', 'resnet8x4', 'A network; see `kd-jax list networks`.'),
  Key('student.args', ConfigDict(), "Fields of the network's class."),
  Key('teacher.name', '', "A network; '' is no teacher."),
  Key('teacher.args', ConfigDict(), "Fields of the network's class."),
  Key(
    'teacher.dtype', '', "What it computes in as it teaches; '' is `dtype`.",
    ('', *DTYPES),
  ),
  Key(
    'teacher.path', '',
    "A run's folder, an export, or a file of PyTorch weights (.safetensors, or "
    "what torch.save wrote), at home or https://; '' trains "
    '`teacher.recipe` or reuses a teacher that was trained so.',
  ),
  Key(
    'teacher.key', '',
    "Where that file has the weights, such as 'model_ema'; '' looks for them.",
    added=True,
  ),
  Key(
    'teacher.sha256', '',
    "That file's SHA-256, all 64 digits of a file by URL, the first 8 or more "
    'of one at home; another file is refused.',
    changes_result=False,
  ),
  Key(
    'teacher.allow_imports', False,
    'Lets the run at that path name its network by package.module:Class, and '
    'so run the code of that module; else only what this configuration names '
    'is imported.',
    changes_result=False,
  ),
  Key(
    'teacher.class_names', (),
    "The data's classes in the order of its outputs, for a file that does not "
    "name them: ('dog', 'cat'); 'natural' is the order 0, 1, 2, 10, and "
    "'data' the data's; () goes by the names of its own.",
    added=True,
  ),
  Key(
    'teacher.mean', (),
    "Of pixels in 0..1, that it was trained with; () is the data set's.",
  ),
  Key(
    'teacher.std', (),
    "Of pixels in 0..1, that it was trained with; () is the data set's.",
  ),
  Key(
    'teacher.sees', 'mixed',
    "The images of mixup and CutMix that the student sees, or 'plain': those "
    'before mixing, of which the student sees the share of the ratio.',
    ('mixed', 'plain'), added=True,
  ),
  Key(
    'teacher.cache_logits', False,
    'Computes its logits of the training images once, before the first step: '
    'for methods that read nothing else of the teacher, on images that are '
    'not cropped at random.',
  ),
  Key(
    'teacher.recipe',
    ConfigDict({'seed': 0, 'epochs': 240, 'batch_size': 64}),
    'What its training changes of these defaults; any other key may be added.',
  ),
  Key(
    'teacher.expected_top1', 0.0, 'Percent; a teacher with less stops the run.',
    changes_result=False,
  ),
  Key(
    'teacher.expected_on', 'test', 'The split of that accuracy.',
    ('test', 'val', 'train'),
  ),
  Key(
    'teacher.allow_below_expected', False, 'Goes on with a weaker teacher.',
    changes_result=False,
  ),
  Key(
    'baseline', 'cache',
    "The student trained alone with the same recipe: 'train', 'cache' (shown "
    "if an earlier run trained it) or 'off'.",
    ('train', 'cache', 'off'), changes_result=False,
  ),
  Key('optimizer.name', 'sgd', 'An optimizer.'),
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
    'optimizer.weight_decay', 5e-4, "Of every parameter, as PyTorch's.",
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
  Key(
    'trainable', ('.*',),
    'Only parameters in whose path one of these is found are trained.',
  ),
  Key(
    'phases', ConfigDict(),
    'What comes before `epochs`, in the order of the names: each with '
    "'epochs' and what it changes of 'weights', 'learning_rate' (its epochs "
    "count from the phase's start) and 'trainable'. The optimizer starts "
    'afresh in each.',
  ),
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

INDIFFERENT = tuple(key.path for key in KEYS if not key.changes_result)
ADDED = {key.path: key.default for key in KEYS if key.added}
TAKEN_FROM_RUN = tuple(key.path for key in KEYS if key.for_teacher)
CHOICES = {key.path: key.choices for key in KEYS if key.choices}


def default() -> ConfigDict:
  """Returns every key with its default; the values are RepDistiller's."""
  config = ConfigDict()
  for key in KEYS:
    *groups, last = key.path.split('.')
    group = config
    for name in groups:
      if name not in group:
        group[name] = ConfigDict()
      group = group[name]
    group[last] = copy.deepcopy(key.default)
  return config
