"""The keys of augmentation and regularisation; see `schema.KEYS`."""

from kd_jax.config.key import Key

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
)  # fmt: skip
