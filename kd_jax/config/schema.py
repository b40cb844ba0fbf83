"""Every key of a configuration: its default, its values and what it means.

A configuration is an `ml_collections.ConfigDict`. Files in `configs/` start
from `default()` and change what their paper changes. `kd-jax list keys` prints
this table.
"""

import copy

from ml_collections import ConfigDict

from kd_jax.config import augmentation, optimizing, starts
from kd_jax.config.keys import RUNNING
from kd_jax.config.keys import Key as Key
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
    ('crop_flip', 'random_resized_crop', 'segmentation', 'detection'),
    for_teacher=True,
  ),
  Key(
    'data.area', (0.08, 1.0),
    'The least and the greatest area of a random_resized_crop.',
    for_teacher=True,
  ),
  Key(
    'data.fast_decode', False,
    'Decodes a JPEG at 1/2, 1/4 or 1/8 of its size where the crop of '
    'random_resized_crop stays as large as the input; pixels differ a little.',
    for_teacher=True, added=True,
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
  Key('data.eval_protocol', 'square',
      'How images with masks are evaluated; see the page "segmentation".',
      ('square', 'paper', 'original'), for_teacher=True, added=True),
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
  *starts.KEYS,
  Key(
    'students', ConfigDict(),
    "By name, the 'name' and 'args' of students of a method that has several; "
    'a student that is not here is `student`.',
    added=True,
  ),
  Key(
    'batch_students', False,
    'Whether students of one network run as one, in grouped convolutions: '
    'fewer kernels for a GPU. Results differ by rounding.',
    added=True,
  ),
  Key('teacher.name', '', "A network; '' is no teacher."),
  Key('teacher.args', ConfigDict(), "Fields of the network's class."),
  Key(
    'teachers', ConfigDict(),
    'By name, the fields of `teacher` (but cache_logits, which is said there '
    'for all) for each teacher of a method that has several.',
    added=True,
  ),
  Key(
    'teacher.image_size', 0,
    'Pixels of its images, to which those of the run are resized (bilinear, '
    "with antialiasing) as it teaches; 0 is the data's size.",
    added=True,
  ),
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
  *optimizing.KEYS,
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
  *RUNNING,
)  # fmt: skip

INDIFFERENT = tuple(key.path for key in KEYS if not key.changes_result)
ADDED = {
  key.path: key.default.to_dict()
  if isinstance(key.default, ConfigDict)
  else key.default
  for key in KEYS
  if key.added
}
# Keys that a teacher's recipe has with their defaults, so that they can be set.
OF_RECIPES = tuple(
  key.path for key in augmentation.KEYS if key.path.startswith('data.')
)
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
