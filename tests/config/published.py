"""The papers' values: what every recipe that is not embedded must hold.

Written from the papers and the released code, not from `configs/`. Certainty:
'code' was read in released code, 'paper' in the paper's public text, 'recalled'
comes from memory and is not verified, 'ours' is this library's choice.
"""

from collections.abc import Mapping
import types
from typing import Any, NamedTuple

NONE: Mapping[str, Any] = types.MappingProxyType({})


class Schedule(NamedTuple):
  """How a student is trained; SGD with momentum 0.9, rate times 0.1.

  Milestones ('poly', power, epochs, first) and ('cosine',) are that schedule.
  """

  source: str
  certainty: str
  data: str = 'cifar100'
  epochs: int = 240
  batch: int = 64
  rate: float = 0.05
  milestones: tuple[Any, ...] = (150, 180, 210)
  decay: float = 5e-4
  nesterov: bool = False
  padding: tuple[str, int] = ('zero', 4)
  mean: tuple[float, ...] = ()  # the data set's, which is RepDistiller's
  std: tuple[float, ...] = ()
  resets: tuple[int, ...] = ()
  warmup: int = 0
  augment: str = 'crop_flip'
  image_size: int = 0
  protocol: str = 'square'  # of the evaluation of masks
  group: int = 0  # images that share BatchNorm's statistics
  optimizer: str = 'sgd'
  varied: Mapping[str, Any] = NONE  # augmentation that is off by default
  # Epochs, batch, rate, milestones, decay, Nesterov, resets of the teacher, and
  # the group if there is one.
  teacher: tuple[Any, ...] = (240, 64, 0.05, (150, 180, 210), 5e-4, False, ())


class Setting(NamedTuple):
  """A method's weights and arguments.

  A weight is a number, ('ramp', value, epochs, first) or ('gaussian', value,
  epochs).
  """

  source: str
  certainty: str
  weights: dict[str, Any]
  args: Mapping[str, Any] = NONE
  temperature: float | None = 4.0
  phase: Mapping[str, Any] = NONE
  trainable: tuple[str, ...] = ('.*',)
  rules: tuple[Any, ...] = ()
  batch_norm: str = ''  # of the teacher


class Row(NamedTuple):
  """A recipe's schedule and setting by name, and its networks."""

  schedule: str
  setting: str
  teacher: str
  student: str
  args: Mapping[str, Any] = NONE  # of the method, beside the setting's
  students: Mapping[str, str] = NONE  # that are another network, by name


def _of_255(*values: float) -> tuple[float, ...]:
  return tuple(value / 255 for value in values)


_OFD_MEAN, _OFD_STD = _of_255(125.3, 123.0, 113.9), _of_255(63.0, 62.1, 66.7)
_LI_MEAN, _LI_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
_IMAGENET = {
  'data': 'imagenet2012',
  'epochs': 100,
  'batch': 256,
  'rate': 0.1,
  'milestones': (30, 60, 90),
  'decay': 1e-4,
  'augment': 'random_resized_crop',
  'image_size': 224,
  'teacher': (100, 256, 0.1, (30, 60, 90), 1e-4, False, ()),
}
_TINY = {'data': 'tiny_imagenet', 'padding': ('zero', 8)}
_FPD = 'kd_jax: the paper says no more than its abstract'
_TFFD = {
  'batch': 128,
  'rate': 0.1,
  'nesterov': True,
  'padding': ('reflect', 4),
  'mean': _LI_MEAN,
  'std': _LI_STD,
}
_REVIEW = {
  'batch': 128,
  'milestones': (151, 181, 211),  # `if epoch in steps` after an epoch from 0
  'nesterov': True,
  'mean': _OFD_MEAN,
  'std': _OFD_STD,
  'teacher': (240, 128, 0.1, (151, 181, 211), 5e-4, True, ()),
}
_VOC = {
  'data': 'voc:pascal',
  'epochs': 50,
  'batch': 12,
  'rate': 0.007,
  'milestones': ('poly', 0.9, 50, 0),
  'nesterov': True,
  'augment': 'segmentation',
  'image_size': 513,
  'protocol': 'paper',
  'group': 6,
  'teacher': (
    50, 16, 0.007, ('poly', 0.9, 50, 0), 5e-4, False, (), 4
  ),
}  # fmt: skip
_SSD_DROPS = (80_000 / 517, 100_000 / 517)  # steps, of 517 an epoch
_SSD = {
  'data': 'voc_boxes:pascal',
  'epochs': 232,  # 119,944 steps of 120,000
  'batch': 32,
  'rate': 1e-3,
  'milestones': _SSD_DROPS,
  'augment': 'detection',
  'image_size': 300,
  'teacher': (232, 32, 1e-3, _SSD_DROPS, 5e-4, False, ()),
}
_OFD = {
  'epochs': 200,
  'rate': 0.1,
  'milestones': (100, 150),
  'nesterov': True,
  'padding': ('reflect', 4),
  'mean': _OFD_MEAN,
  'std': _OFD_STD,
  'resets': (100, 150),
}


def _ofd_teacher(batch: int) -> tuple[Any, ...]:
  return (200, batch, 0.1, (100, 150), 5e-4, True, (100, 150))


SCHEDULES = {
  'repdistiller': Schedule('RepDistiller b84f547', 'code'),
  'slow': Schedule('RepDistiller b84f547', 'code', rate=0.01),
  'simkd slow': Schedule('SimKD 2b389c3', 'code', rate=0.01),
  'fpd': Schedule(_FPD, 'ours'),
  'fpd cifar10': Schedule(_FPD, 'ours', data='cifar10'),
  'pics tiny': Schedule('kd_jax: SimKD, padded by 8', 'ours', **_TINY),
  'tf_fd': Schedule('Teacher-free-Distillation 3427f98', 'code', **_TFFD),
  'ofd': Schedule(
    'overhaul-distillation 76344a8', 'code', **_OFD, batch=128,
    teacher=_ofd_teacher(128),
  ),
  'ofd pyramid': Schedule(
    'overhaul-distillation 76344a8', 'code', **_OFD, batch=64,
    teacher=_ofd_teacher(64),
  ),
  'voc': Schedule('overhaul-distillation 76344a8', 'code', **_VOC),
  'voc ofd': Schedule(
    'overhaul-distillation 76344a8', 'code',
    **{**_VOC, 'epochs': 49, 'milestones': ('poly', 0.9, 50, 1)},
  ),
  'voc teacher': Schedule(
    'pytorch-deeplab-xception, train_voc.sh', 'code',
    **{**_VOC, 'batch': 16, 'nesterov': False, 'group': 4},
  ),
  'ssd': Schedule(
    'ssd.pytorch 5b0b77f', 'code', **_SSD,
    mean=_of_255(123.0, 117.0, 104.0), std=_of_255(1.0, 1.0, 1.0),
  ),
  'ssd ofd': Schedule(
    "kd_jax: ssd.pytorch's, with ImageNet's normalisation", 'ours', **_SSD
  ),
  'ffsd': Schedule(
    'FFSD d5cfda9', 'code', epochs=299, batch=128, rate=0.1,
    milestones=(150, 225), decay=1e-4, nesterov=True, padding=('reflect', 4),
    mean=_LI_MEAN, std=_LI_STD,
  ),
  'dml': Schedule(
    'DML, section 3; the decay is ours', 'recalled', epochs=200, rate=0.1,
    milestones=(60, 120, 180), nesterov=True, padding=('reflect', 4),
  ),
  'reviewkd': Schedule('ReviewKD, train.py', 'code', **_REVIEW, rate=0.1),
  'reviewkd slow': Schedule(
    'ReviewKD, train.py', 'code', **_REVIEW, rate=0.02
  ),
  'imagenet': Schedule('torchdistill, mdistiller a08d46f', 'code', **_IMAGENET),
  'imagenet ours': Schedule('kd_jax: torchvision, longer', 'ours', **_IMAGENET),
  'imagenet simkd': Schedule(
    'SimKD 2b389c3', 'code', **{**_IMAGENET, 'epochs': 120}
  ),
  'imagenet dkd': Schedule(
    'mdistiller a08d46f', 'code', **{**_IMAGENET, 'batch': 512, 'rate': 0.2}
  ),
  'imagenet ofd': Schedule(
    'overhaul-distillation 76344a8', 'code',
    **{
      **_IMAGENET,
      'milestones': (29, 59, 89),  # epoch // 30, counted from 1
      'nesterov': True,
      'teacher': (100, 256, 0.1, (30, 60, 90), 1e-4, True, ()),
    },
  ),
  'imagenet ffsd': Schedule(
    'FFSD d5cfda9', 'code',
    **{
      **_IMAGENET,
      'epochs': 90,
      'milestones': (30, 60, 80),
      'nesterov': True,
      'warmup': 5,
    },
  ),
  'imagenet deit': Schedule(
    'DeiT, Table 9; main.py and README', 'recalled',
    **{
      **_IMAGENET,
      'epochs': 300,
      'batch': 1024,
      'rate': 1e-3,
      'milestones': ('cosine', 1e-5),
      'decay': 0.05,
      'warmup': 5,
      'optimizer': 'adamw',
      # timm's 'rand-m9-mstd0.5-inc1': 9 of 10, half of two operations.
      'varied': {
        'data.mixup': 0.8,
        'data.cutmix': 1.0,
        'data.label_smoothing': 0.1,
        'data.policy': 'randaugment',
        'data.policy_ops': 1,
        'data.policy_level': 27,
        'data.erasing': 0.25,
      },
    },
  ),
  'folder': Schedule(
    'kd_jax: a starting point', 'ours', data='folder:photos', epochs=30,
    milestones=(15, 25), augment='random_resized_crop', image_size=224,
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
  ),
  'folder deit': Schedule(
    'kd_jax: a starting point', 'ours', data='folder:photos', epochs=30,
    rate=1e-3, milestones=('cosine',), decay=0.05, warmup=2, optimizer='adamw',
    augment='random_resized_crop', image_size=64,
    mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225),
  ),
}  # fmt: skip

_REP = 'RepDistiller b84f547, scripts/run_cifar_distill.sh'
_STAGES = ('stage1', 'stage2', 'stage3')
_NO_KD = {'ce': 1.0, 'kd': 0.0}
_BUT_FC = '^student/(?!fc/)'
_TFFD_WEIGHTS = {
  'ce': 1.0, 'inter': ('ramp', 5e-4, 20, 1), 'intra': ('ramp', 8e-4, 20, 1),
}  # fmt: skip


def _rep(name: str, weight: float, **args: Any) -> Setting:
  return Setting(_REP, 'code', {**_NO_KD, name: weight}, args)


def _dkd(beta: float, temperature: float = 4.0, epochs: int = 20) -> Setting:
  return Setting(
    'mdistiller a08d46f, configs', 'code',
    {**_NO_KD, 'dkd': ('ramp', 1.0, epochs, 1)},
    {'alpha': 1.0, 'beta': beta}, temperature,
  )  # fmt: skip


def _reviewkd(weight: float, first: int = 1, epochs: int = 20) -> Setting:
  return Setting(
    'ReviewKD, script/reviewKD.sh; mdistiller a08d46f', 'code',
    {**_NO_KD, 'reviewkd': ('ramp', weight, epochs, first)},
  )  # fmt: skip


def _dist(temperature: float) -> Setting:
  return Setting(
    'DIST_KD 2418f18', 'recalled', {**_NO_KD, 'inter': 2.0, 'intra': 2.0},
    {'dist_temperature': temperature},
  )  # fmt: skip


def _ofd(weight: float, *stages: int) -> Setting:
  return Setting(
    'overhaul-distillation 76344a8', 'code', {**_NO_KD, 'ofd': weight},
    {'stages': stages}, batch_norm='batch',
  )  # fmt: skip


def _ce_voc(batch: int) -> Setting:
  return Setting(
    'overhaul-distillation 76344a8, utils/loss.py', 'code', {'ce': 1 / batch},
    temperature=None,
    rules=(('^student/(aspp|decoder)/', ('sgd', 10.0, None)),),
  )  # fmt: skip


def _fpd(width: int) -> Setting:
  return Setting(
    'initialDemo a5073fc, the command line of its example', 'code',
    {'ce': 0.1, 'kd': 0.8, 'fpd': 0.1},
    {
      'taps': ('stem', *_STAGES), 'version': 'A', 'width': width,
      'se_reduction': 16, 'widened': (32, 64, 128, 256), 'guided': False,
      'stop_grad_teacher_pyramid': False,
    },
  )  # fmt: skip


def _ft(rate: float) -> Setting:
  return Setting(
    _REP, 'code', {**_NO_KD, 'ft': 200.0, 'reconstruction': 0.0},
    {'rate': 0.5},
    phase={
      'epochs': 30, 'learning_rate': rate,
      'weights': {'ce': 0.0, 'ft': 0.0, 'reconstruction': 1.0},
      'trainable': ('^method/paraphraser',),
    },
    trainable=('^student/', '^method/translator'),
  )  # fmt: skip


def _ab(rate: float) -> Setting:
  return Setting(
    _REP, 'code', {**_NO_KD, 'ab': 0.0}, {'margin': 1.0},
    phase={
      'epochs': 30, 'learning_rate': rate, 'weights': {'ce': 0.0, 'ab': 0.003},
      'trainable': (_BUT_FC, '^method/'),
    },
    trainable=('^student/',),
  )  # fmt: skip


SETTINGS = {
  'ce': Setting('none', 'code', {'ce': 1.0}, temperature=None),
  'kd': Setting(_REP, 'code', {'ce': 0.1, 'kd': 0.9}),
  'kd imagenet': Setting(
    'torchdistill, the ResNet-34 to ResNet-18 configuration', 'code',
    {'ce': 0.5, 'kd': 0.5}, temperature=1.0,
  ),
  'kd standardized': Setting(
    'logit-standardization-KD f6e5aa5', 'code', {'ce': 0.1, 'kd': 9.0},
    {'standardize': True}, temperature=2.0,
  ),
  'fitnet': _rep('fitnet', 100.0, taps=('stage2',)),
  'at': _rep('at', 1000.0),
  'sp': _rep('sp', 3000.0),
  'cc': _rep('cc', 0.02, width=128),
  'vid': _rep('vid', 1.0),
  'rkd': Setting(
    _REP, 'code', {**_NO_KD, 'rkd_distance': 25.0, 'rkd_angle': 50.0},
    {'taps': ('pooled',)},
  ),
  'pkt': _rep('pkt', 30000.0, taps=('pooled',)),
  'nst': _rep('nst', 50.0),
  'crd': _rep('crd', 0.8, negatives=16384),
  'crd kd': Setting(
    _REP, 'code', {'ce': 1.0, 'kd': 1.0, 'crd': 0.8}, {'negatives': 16384}
  ),
  'ab': _ab(0.05),
  'ab slow': _ab(0.01),
  'ft resnet': _ft(0.01),
  'ft': _ft(0.05),
  'ft slow': _ft(0.01),
  'fsp': Setting(
    _REP, 'code', {**_NO_KD, 'fsp': 0.0},
    phase={
      'epochs': 30, 'learning_rate': 0.05, 'weights': {'ce': 0.0, 'fsp': 1.0},
      'trainable': (_BUT_FC,),
    },
  ),
  'dkd 2': _dkd(2.0),
  'dkd 6': _dkd(6.0),
  'dkd 8': _dkd(8.0),
  'dkd r34_r18': _dkd(0.5, 1.0, 1),
  'dkd r50_mobilenetv1': _dkd(2.0, 1.0, 1),
  'dist': _dist(4.0),
  'dist imagenet': _dist(1.0),
  'reviewkd 5': _reviewkd(5.0),
  'reviewkd 1': _reviewkd(1.0),
  'reviewkd 0.6': _reviewkd(0.6),
  'reviewkd imagenet': _reviewkd(1.0, epochs=1),
  'official 5': _reviewkd(5.0, first=0),
  'official 8': _reviewkd(8.0, first=0),
  'official 1': _reviewkd(1.0, first=0),
  'official 0.6': _reviewkd(0.6, first=0),
  'ce voc': _ce_voc(12),
  'ce voc teacher': _ce_voc(16),
  'ofd voc': Setting(
    'overhaul-distillation 76344a8, Segmentation', 'code',
    {'ce': 1 / 12, 'kd': 0.0, 'ofd': 1e-5},
    {
      'stages': (1, 2, 3, 4, 'aspp', 'decoder'),
      'divisors': (8.0, 4.0, 2.0, 1.0, 1.0, 16.0),
    },
    phase={  # ten times this is 0.007
      'epochs': 1, 'weights': {}, 'trainable': ('^method/',),
      'learning_rate': {
        'kind': 'poly', 'value': 0.0007, 'power': 0.9, 'epochs': 50, 'first': 0,
      },
    },
    rules=(('^student/(aspp|decoder)/|^method/', ('sgd', 10.0, None)),),
    batch_norm='batch',
  ),
  'ofd': _ofd(1e-3, 1, 2, 3),
  'ofd imagenet': _ofd(1e-4, 1, 2, 3, 4),
  'fpd': _fpd(256),
  'fpd narrow': _fpd(32),
  'deit': Setting(
    'deit, losses.py and README', 'recalled', {'ce': 0.5, 'distilled': 0.5},
    {'hard': True}, temperature=3.0,
    rules=((
      r'/(bias|scale|class_token|distillation_token|positions)$',
      ('sgd', 1.0, 0.0),  # the optimizer of all, without decay
    ),),
  ),
  'simkd': Setting(
    'SimKD 2b389c3', 'code', {'ce': 0.0, 'kd': 0.0, 'simkd': 1.0},
    {'factor': 2},
  ),
  'pics': Setting(
    'kd_jax, after SimKD and PEFD', 'ours',
    {'ce': 0.0, 'kd': 0.0, 'pics': 1.0}, {'projectors': 3, 'factor': 2},
  ),
  'pefd': Setting(
    'PEFD 7f1e2de', 'code', {**_NO_KD, 'pefd': 25.0},
    {'taps': ('pooled',), 'projectors': 3},
  ),
  'tfd': Setting(
    "kd_jax: the default of Teacher-free-Distillation's code", 'ours',
    {'ce': 1.0, 'inter': ('ramp', 5e-3, 20, 1)}, temperature=None,
  ),
  'tf_fd': Setting(
    'Teacher-free-Distillation 3427f98, README', 'code', _TFFD_WEIGHTS,
    {'detach_salient': False},
  ),
  'tf_fd kd': Setting(
    'Teacher-free-Distillation 3427f98, README', 'code',
    {**_TFFD_WEIGHTS, 'kd': ('ramp', 1.0, 20, 1)},
    {'detach_salient': False, 'with_kd': True},
  ),
  'dml': Setting(
    'DML, equation 7', 'recalled', {'ce': 1.0, 'mutual': 1.0},
    {'students': ('student_0', 'student_1')}, temperature=None,
  ),
  'ffsd': Setting(
    'FFSD d5cfda9, options.py and CIFARTrainer.py', 'code',
    {
      **dict.fromkeys(
        ('ce', 'mutual', 'fusion_ce', 'fusion_kd', 'leader_kd'), 1.0
      ),
      **dict.fromkeys(('diversity', 'common_sd'), ('gaussian', 1e-5, 5)),
      **dict.fromkeys(
        ('fusion', 'trans_fusion', 'leader_sd'), ('gaussian', 10.0, 5)
      ),
      'decoder': ('gaussian', 1000.0, 5),
    },
    {'common_students': 2}, temperature=2.0,
    # 1e-3 of the decoders is a hundredth of the students' 0.1.
    rules=(
      ('^method/decoder', ('adam', 0.01, 1e-4)),
      ('^method/fusion', ('sgd', 1.0, 1e-5)),
    ),
  ),
}  # fmt: skip

# RepDistiller's pairs: teacher, student, and the number of their stages.
PAIRS = {
  'wrn_40_2_wrn_16_2': ('wrn_40_2', 'wrn_16_2', 3),
  'wrn_40_2_wrn_40_1': ('wrn_40_2', 'wrn_40_1', 3),
  'r56_r20': ('resnet56', 'resnet20', 3),
  'r110_r20': ('resnet110', 'resnet20', 3),
  'r110_r32': ('resnet110', 'resnet32', 3),
  'r32x4_r8x4': ('resnet32x4', 'resnet8x4', 3),
  'vgg13_vgg8': ('vgg13', 'vgg8', 4),
  'vgg13_mobilenetv2': ('vgg13', 'mobilenetv2', 4),
  'r50_mobilenetv2': ('resnet50:cifar', 'mobilenetv2', 4),
  'r50_vgg8': ('resnet50:cifar', 'vgg8', 4),
  'r32x4_shufflenetv1': ('resnet32x4', 'shufflenetv1', 3),
  'r32x4_shufflenetv2': ('resnet32x4', 'shufflenetv2', 3),
  'wrn_40_2_shufflenetv1': ('wrn_40_2', 'shufflenetv1', 3),
}
SAME = tuple(PAIRS)[:7]
SLOW = ('mobilenetv2', 'shufflenetv1', 'shufflenetv2', 'shufflenetv2x1_5')


def _taps(method: str, stages: int) -> dict[str, Any]:
  """Which maps of a network with so many stages a method reads."""
  names = tuple(f'stage{i}' for i in range(1, stages + 1))
  if method in ('at', 'vid', 'nst'):  # feat[1:-1]
    return {'taps': names}
  if method in ('sp', 'ft'):  # feat[-2]
    return {'taps': names[-1:]}
  if method == 'ab':  # feat[1:-1] before the ReLU
    return {'taps': tuple(f'{name}_pre' for name in names)}
  return {'taps': ('stem', *names)} if method == 'fsp' else {}  # feat[:-1]


def _pair(setting: str, pair: str, schedule: str = 'repdistiller') -> Row:
  teacher, student, stages = PAIRS[pair]
  slow = student in SLOW
  method = setting
  if setting == 'ft' and student.startswith(('resnet', 'wrn')):
    setting = 'ft resnet'
  elif setting in ('ft', 'ab') and slow:
    setting = f'{setting} slow'
  if slow:
    schedule = {'repdistiller': 'slow'}.get(schedule, f'{schedule} slow')
  return Row(schedule, setting, teacher, student, _taps(method, stages))


def _rows() -> dict[str, Row]:
  """Returns the row of each recipe that is not embedded."""
  rows: dict[str, Row] = {}
  everywhere = (
    'kd', 'fitnet', 'at', 'sp', 'cc', 'vid', 'rkd', 'pkt', 'ab', 'ft', 'nst',
    'crd', 'dist',
  )  # fmt: skip
  for method in everywhere:
    for pair in PAIRS:
      rows[f'{method}:cifar100_{pair}'] = _pair(method, pair)
  for pair in SAME:
    if pair != 'wrn_40_2_wrn_40_1':  # channels differ
      rows[f'fsp:cifar100_{pair}'] = _pair('fsp', pair)
  standardized = (*SAME, 'vgg13_mobilenetv2', 'r50_mobilenetv2')
  for pair in (*standardized, 'r32x4_shufflenetv2'):
    name = f'kd:cifar100_{pair}_standardized'
    rows[name] = _pair('kd standardized', pair)
  betas = {
    'r56_r20': 2, 'r110_r32': 2, 'vgg13_vgg8': 6, 'vgg13_mobilenetv2': 6,
    'wrn_40_2_wrn_16_2': 6, 'wrn_40_2_wrn_40_1': 6, 'r32x4_r8x4': 8,
    'r50_mobilenetv2': 8, 'r32x4_shufflenetv1': 8, 'r32x4_shufflenetv2': 8,
    'wrn_40_2_shufflenetv1': 8,
  }  # fmt: skip
  for pair, beta in betas.items():
    rows[f'dkd:cifar100_{pair}'] = _pair(f'dkd {beta}', pair)
  weights = {'r32x4_r8x4': '5', 'r110_r32': '1', 'r56_r20': '0.6'}
  for pair, weight in weights.items():
    rows[f'reviewkd:cifar100_{pair}'] = _pair(f'reviewkd {weight}', pair)
  weights |= {'r32x4_shufflenetv2': '8'}
  fives = ('wrn_40_2_wrn_16_2', 'wrn_40_2_wrn_40_1', 'wrn_40_2_shufflenetv1')
  weights |= dict.fromkeys((*fives, 'r32x4_shufflenetv1'), '5')
  for pair, weight in weights.items():
    name = f'reviewkd:cifar100_{pair}_official'
    rows[name] = _pair(f'official {weight}', pair, 'reviewkd')
  return rows


def _more() -> dict[str, Row]:
  rep, small = 'repdistiller', ('resnet20', 'resnet8')
  large, r34 = ('resnet32x4', 'resnet8x4'), ('resnet34', 'resnet18')
  three, four = {'taps': _STAGES}, {'taps': (*_STAGES, 'stage4')}
  last, fourth = {'taps': ('stage3',)}, {'taps': ('stage4',)}
  vgg = {'taps': ('stage4',), 'teacher_taps': ('stage3',)}
  before = ('stage1_pre', 'stage2_pre', 'stage3_pre', 'stage4_pre', 'pooled')
  review = {'taps': before, 'teacher_taps': before}
  post = {'taps': ('stage1', 'stage2', 'stage3_post')}
  fpd34 = ('resnet34:cifar', 'resnet18:cifar')
  return {
    'ce:cifar100_r20': Row('tf_fd', 'ce', '', 'resnet20'),
    'kd:cifar100_r20_r8': Row(rep, 'kd', *small),
    'kd:imagenet_r34_r18': Row('imagenet', 'kd imagenet', *r34),
    'kd:folder_r34_r18': Row('folder', 'kd', *r34),
    'crd:cifar100_r32x4_r8x4_kd': Row(rep, 'crd kd', *large),
    'crd:imagenet_r34_r18': Row('imagenet', 'crd', *r34),
    'dkd:imagenet_r34_r18': Row('imagenet dkd', 'dkd r34_r18', *r34),
    'dkd:imagenet_r50_mobilenetv1': Row(
      'imagenet dkd', 'dkd r50_mobilenetv1', 'resnet50', 'mobilenetv1'
    ),
    'deit:imagenet_regnety_16gf_tiny': Row(
      'imagenet deit', 'deit', 'regnety_16gf', 'deit_tiny:0.1'
    ),
    'deit:folder_regnety_400mf_tiny': Row(
      'folder deit', 'deit', 'regnety_400mf', 'deit_tiny:64:8'
    ),
    'dist:imagenet_r34_r18': Row('imagenet', 'dist imagenet', *r34),
    'reviewkd:imagenet_r34_r18': Row(
      'imagenet', 'reviewkd imagenet', *r34, review
    ),
    'pefd:cifar100_r32x4_r8x4': Row(rep, 'pefd', *large),
    'ofd:cifar100_r32x4_r8x4': Row(rep, 'ofd', *large),
    'ofd:cifar100_r20_r8': Row(rep, 'ofd', *small),
    'ofd:cifar100_wrn_28_4_wrn_16_4': Row('ofd', 'ofd', 'wrn_28_4', 'wrn_16_4'),
    'ofd:cifar100_wrn_28_4_wrn_28_2': Row('ofd', 'ofd', 'wrn_28_4', 'wrn_28_2'),
    'ofd:cifar100_wrn_28_4_wrn_16_2': Row('ofd', 'ofd', 'wrn_28_4', 'wrn_16_2'),
    'ofd:cifar100_wrn_28_4_r56': Row('ofd', 'ofd', 'wrn_28_4', 'resnet56'),
    'ofd:cifar100_p200_wrn_28_4': Row(
      'ofd pyramid', 'ofd', 'pyramidnet200', 'wrn_28_4'
    ),
    'ofd:cifar100_p200_p110': Row(
      'ofd pyramid', 'ofd', 'pyramidnet200', 'pyramidnet110'
    ),
    'ce:voc_r101': Row(
      'voc teacher', 'ce voc teacher', '', 'deeplab_resnet101'
    ),
    'ce:voc_r18': Row('voc', 'ce voc', '', 'deeplab_resnet18'),
    'ce:voc_mobilenetv2': Row('voc', 'ce voc', '', 'deeplab_mobilenetv2'),
    'ofd:voc_r101_r18': Row(
      'voc ofd', 'ofd voc', 'deeplab_resnet101', 'deeplab_resnet18:decoder'
    ),
    'ofd:voc_r101_mobilenetv2': Row(
      'voc ofd', 'ofd voc', 'deeplab_resnet101', 'deeplab_mobilenetv2:decoder'
    ),
    'ce:voc07_ssd_vgg16': Row('ssd', 'ce', '', 'ssd300_vgg16'),
    'ce:voc07_ssd_r50': Row('ssd ofd', 'ce', '', 'ssd300_resnet50'),
    'ce:voc07_ssd_r18': Row('ssd ofd', 'ce', '', 'ssd300_resnet18'),
    'ofd:voc07_ssd_r50_r18': Row(
      'ssd ofd', 'ofd imagenet', 'ssd300_resnet50', 'ssd300_resnet18'
    ),
    'ofd:imagenet_r152_r50': Row(
      'imagenet ofd', 'ofd imagenet', 'resnet152', 'resnet50'
    ),
    'ofd:imagenet_r50_mobilenetv1': Row(
      'imagenet ofd', 'ofd imagenet', 'resnet50', 'mobilenetv1'
    ),
    'ofd:imagenet_r34_r18': Row('imagenet ofd', 'ofd imagenet', *r34),
    'fpd:cifar100_r34_r18': Row('fpd', 'fpd', *fpd34),
    'fpd:cifar100_r152_r50': Row(
      'fpd', 'fpd', 'resnet152:cifar', 'resnet50:cifar'
    ),
    'fpd:cifar10_r34_r18': Row('fpd cifar10', 'fpd', *fpd34),
    'fpd:imagenet_r34_r18': Row('imagenet ours', 'fpd', *r34),
    'fpd:cifar100_r32x4_r8x4': Row('fpd', 'fpd', *large),
    'fpd:cifar100_r20_r8': Row('fpd', 'fpd narrow', *small),
    'simkd:cifar100_r32x4_r8x4': Row(rep, 'simkd', *large, last),
    'simkd:cifar100_r32x4_vgg8': Row(rep, 'simkd', 'resnet32x4', 'vgg8', vgg),
    'simkd:cifar100_r32x4_shufflenetv2x1_5': Row(
      'simkd slow', 'simkd', 'resnet32x4', 'shufflenetv2x1_5', last
    ),
    'simkd:cifar100_r20_r8': Row(rep, 'simkd', *small, last),
    'simkd:imagenet_r34_r18': Row('imagenet simkd', 'simkd', *r34, fourth),
    'pics:cifar100_r32x4_r8x4': Row(rep, 'pics', *large, last),
    'pics:cifar100_r20_r8': Row(rep, 'pics', *small, last),
    'pics:tiny_imagenet_r32x4_r8x4': Row('pics tiny', 'pics', *large, last),
    'pics:imagenet_r34_r18': Row('imagenet simkd', 'pics', *r34, fourth),
    'tfd:cifar100_r20': Row('tf_fd', 'tfd', '', 'resnet20', three),
    'tfd:cifar100_r8': Row(rep, 'tfd', '', 'resnet8', three),
    'tfd:imagenet_r18': Row('imagenet ours', 'tfd', '', 'resnet18', four),
    'tf_fd:cifar100_r20': Row('tf_fd', 'tf_fd', '', 'resnet20', three),
    'tf_fd:cifar100_r32': Row('tf_fd', 'tf_fd', '', 'resnet32', three),
    'tf_fd:cifar100_wrn_16_2': Row('tf_fd', 'tf_fd', '', 'wrn_16_2', three),
    'tf_fd:cifar100_r8x4': Row('tf_fd', 'tf_fd', '', 'resnet8x4', three),
    'tf_fd:cifar100_vgg8': Row('tf_fd', 'tf_fd', '', 'vgg8', four),
    'tf_fd:imagenet_r18': Row('imagenet ours', 'tf_fd', '', 'resnet18', four),
    'tf_fd:imagenet_r50': Row('imagenet ours', 'tf_fd', '', 'resnet50', four),
    'tf_fd:cifar100_r110_r20': Row(
      'tf_fd', 'tf_fd kd', 'resnet110', 'resnet20', three
    ),
    'tf_fd:cifar100_r110_r32': Row(
      'tf_fd', 'tf_fd kd', 'resnet110', 'resnet32', three
    ),
    'tf_fd:cifar100_wrn_40_2_wrn_16_2': Row(
      'tf_fd', 'tf_fd kd', 'wrn_40_2', 'wrn_16_2', three
    ),
    'tf_fd:cifar100_r32x4_r8x4': Row('tf_fd', 'tf_fd kd', *large, three),
    'tf_fd:cifar100_vgg13_vgg8': Row(
      'tf_fd', 'tf_fd kd', 'vgg13', 'vgg8', four
    ),
    'dml:cifar100_r32_r32': Row(
      'dml', 'dml', '', 'resnet32', students={'student_1': 'resnet32'}
    ),
    'dml:cifar100_r32_wrn_28_10': Row(
      'dml', 'dml', '', 'resnet32', students={'student_1': 'wrn_28_10'}
    ),
    'ffsd:cifar100_r8': Row('ffsd', 'ffsd', '', 'resnet8', three),
    'ffsd:cifar100_r20': Row('ffsd', 'ffsd', '', 'resnet20', three),
    'ffsd:cifar100_r32': Row('ffsd', 'ffsd', '', 'resnet32', three),
    'ffsd:cifar100_r56': Row('ffsd', 'ffsd', '', 'resnet56', three),
    'ffsd:cifar100_wrn_16_2': Row('ffsd', 'ffsd', '', 'wrn_16_2_ffsd', post),
    'ffsd:cifar100_wrn_40_2': Row('ffsd', 'ffsd', '', 'wrn_40_2_ffsd', post),
    'ffsd:cifar100_densenet40_12': Row(
      'ffsd', 'ffsd', '', 'densenet40_12', post
    ),
    'ffsd:cifar100_googlenet': Row('ffsd', 'ffsd', '', 'googlenet', three),
    'ffsd:imagenet_r18': Row('imagenet ffsd', 'ffsd', '', 'resnet18', four),
    'ffsd:imagenet_r34': Row('imagenet ffsd', 'ffsd', '', 'resnet34', four),
  }  # fmt: skip


ROWS = _rows() | _more()
