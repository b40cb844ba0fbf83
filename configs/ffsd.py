"""FFSD: Li et al., "Distilling a Powerful Student Model via Online Knowledge
Distillation", TNNLS 2022.

  python -m kd_jax.main --config configs/ffsd.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """300 embedded images of digits, 8x8 pixels; a minute on a laptop."""
  return ffsd(base.teacher_free(base.digits()))


def cifar100_r20() -> base.ConfigDict:
  """resnet20 on CIFAR-100, the released recipe.

  Published: 72.70% top-1 of the leader, the mean of the best epochs of three
  runs (FFSD's README).

    python -m kd_jax.main --config configs/ffsd.py:cifar100_r20
  """
  return cifar100('resnet20')


def cifar100_r32() -> base.ConfigDict:
  """resnet32 on CIFAR-100; published: 74.85%, measured as in `cifar100_r20`."""
  return cifar100('resnet32')


def cifar100_r56() -> base.ConfigDict:
  """resnet56 on CIFAR-100; published: 75.80%, measured as in `cifar100_r20`."""
  return cifar100('resnet56')


def cifar100_wrn_16_2() -> base.ConfigDict:
  """WRN-16-2 on CIFAR-100; published: 75.81%, measured as in `cifar100_r20`.

  The network is FFSD's own variant, which has biases in its convolutions.
  """
  return cifar100('wrn_16_2_ffsd', last='stage3_post')


def cifar100_wrn_40_2() -> base.ConfigDict:
  """WRN-40-2 on CIFAR-100; published: 79.14%, measured as in `cifar100_r20`."""
  return cifar100('wrn_40_2_ffsd', last='stage3_post')


def cifar100_densenet40_12() -> base.ConfigDict:
  """DenseNet-40-12 on CIFAR-100; published: 77.39%, as in `cifar100_r20`."""
  return cifar100('densenet40_12', last='stage3_post')


def cifar100_googlenet() -> base.ConfigDict:
  """GoogLeNet on CIFAR-100; published: 81.60%, as in `cifar100_r20`."""
  return cifar100('googlenet')


def cifar100_r8() -> base.ConfigDict:
  """resnet8 on CIFAR-100, the released recipe: a small network."""
  return cifar100('resnet8')


def imagenet_r18() -> base.ConfigDict:
  """ResNet18 on ImageNet; published: 70.87% top-1 of the leader.

  python -m kd_jax.main --config configs/ffsd.py:imagenet_r18
  """
  return imagenet('resnet18')


def imagenet_r34() -> base.ConfigDict:
  """ResNet34 on ImageNet; published: 74.69% top-1 of the leader.

  python -m kd_jax.main --config configs/ffsd.py:imagenet_r34
  """
  return imagenet('resnet34')


def imagenet(network: str) -> base.ConfigDict:
  """Returns the recipe for ImageNet, with 90 epochs.

  The released code counts epochs from 1 and ends before the 90th. It begins at
  a fifth of the learning rate, and does not warm up the decoders' rate.

  Args:
    network: The name of the students' network.
  """
  config = base.imagenet(
    student=network, milestones=(30, 60, 80), nesterov=True
  )
  config = base.teacher_free(config)
  config.epochs = 90
  config.optimizer.learning_rate.warmup_epochs = 5
  return ffsd(config)


def cifar100(network: str, last: str = 'stage3') -> base.ConfigDict:
  """Returns the released recipe for CIFAR-100, with 299 epochs.

  It uses Nesterov momentum and pads images by reflection.

  Args:
    network: The name of the students' network.
    last: The tap of the network's last map.
  """
  config = base.teacher_free(base.default())
  config.student = base.network(network)
  config.epochs, config.batch_size = 299, 128
  config.data.padding_mode = 'reflect'
  config.data.mean = (0.5071, 0.4865, 0.4409)
  config.data.std = (0.2673, 0.2564, 0.2762)
  config.optimizer.learning_rate = base.step_schedule(0.1, (150, 225))
  config.optimizer.nesterov = True
  config.optimizer.weight_decay = 1e-4
  config = ffsd(config)
  config.method_args.taps = ('stage1', 'stage2', last)
  return config


def ffsd(config: base.ConfigDict) -> base.ConfigDict:
  """Adds the method to `config`, with the released weights and optimizers.

  There are three optimizers: for the students, the decoders and the fusion
  module. All have the schedule of `config.optimizer`, which for the decoders is
  scaled so that it starts from 1e-3 in the recipe.
  """
  config.method = 'ffsd'
  config.method_args = base.ConfigDict(
    {
      'common_students': 2,
      'taps': base.stages(config),
      'temperature': 2.0,
    }
  )
  ones = ('ce', 'mutual', 'fusion_ce', 'fusion_kd', 'leader_kd')
  ramps = {
    1e-5: ('diversity', 'common_sd'),
    10.0: ('fusion', 'trans_fusion', 'leader_sd'),
    1000.0: ('decoder',),
  }
  config.weights = base.ConfigDict(
    dict.fromkeys(ones, 1.0)
    | {
      name: {'kind': 'gaussian_ramp', 'value': value, 'epochs': 5}
      for value, names in ramps.items()
      for name in names
    }
  )
  factor = 1e-3 / config.optimizer.learning_rate.value
  config.optimizer.rules = (
    (
      '^method/decoder',
      {
        'name': 'adam',
        'learning_rate': {'kind': 'scaled', 'factor': factor},
        'weight_decay': 1e-4,
      },
    ),
    ('^method/fusion', {'weight_decay': 1e-5}),
  )
  return config


RECIPES = {
  'digits': digits,
  'cifar100_r8': cifar100_r8,
  'cifar100_r20': cifar100_r20,
  'cifar100_r32': cifar100_r32,
  'cifar100_r56': cifar100_r56,
  'cifar100_wrn_16_2': cifar100_wrn_16_2,
  'cifar100_wrn_40_2': cifar100_wrn_40_2,
  'cifar100_densenet40_12': cifar100_densenet40_12,
  'cifar100_googlenet': cifar100_googlenet,
  'imagenet_r18': imagenet_r18,
  'imagenet_r34': imagenet_r34,
}
