"""The keys of augmentation and regularisation; see `schema.KEYS`."""

from kd_jax.config.keys import Key

KEYS = (
  Key(
    'ema', 0.0,
    'The decay, a step, of a moving average of the trained parameters and '
    'BatchNorm statistics, which is evaluated and saved beside them; 0 is off.',
    added=True,
  ),
  Key(
    'data.mixup', 0.0,
    "Alpha of mixup, whose ratio is drawn from Beta(alpha, alpha); 0 is off.",
    added=True,
  ),
  Key(
    'data.cutmix', 0.0, 'Alpha of CutMix; 0 is off.', added=True,
  ),
  Key(
    'data.mix_prob', 1.0, 'The probability that a batch is mixed.', added=True,
  ),
  Key(
    'data.mix_switch', 0.5,
    'Where mixup and CutMix are on: the probability that a mixed batch is one '
    'of CutMix.',
    added=True,
  ),
  Key(
    'data.label_smoothing', 0.0,
    'The share of a training label that is spread evenly over all classes.',
    added=True,
  ),
  Key(
    'data.policy', '',
    "Operations on each training image: 'randaugment', 'trivialaugment', or "
    'a policy of AutoAugment. The images are streamed.',
    (
      '', 'randaugment', 'trivialaugment', 'autoaugment_cifar10',
      'autoaugment_imagenet',
    ),
    added=True,
  ),
  Key('data.policy_ops', 2, 'Operations of RandAugment.', added=True),
  Key(
    'data.policy_level', 9, 'The strength of RandAugment, 0 to 30.', added=True,
  ),
  Key(
    'data.color_jitter', (),
    'How much brightness, contrast, saturation and hue vary, such as '
    '(0.4, 0.4, 0.4, 0.1); () is not at all. The images are streamed.',
    added=True,
  ),
  Key(
    'data.erasing', 0.0,
    'The probability that a rectangle of a training image is erased. The '
    'images are streamed.',
    added=True,
  ),
)  # fmt: skip
