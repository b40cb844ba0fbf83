"""OFD's segmentation and SSD300, as `kd-jax benchmark` times them."""

from ml_collections import ConfigDict

from kd_jax import config


def get_config(recipe: str | None = None) -> ConfigDict:
  """Returns the configuration of a recipe; None takes `segmentation`."""
  return config.pick(recipe, RECIPES)


def segmentation() -> ConfigDict:
  """The recipe ofd:voc_r101_r18 after its first epoch.

  Batches are normalised whole: 4 images of 257 pixels replace 2 groups of 6.
  """
  made = config.load('ofd:voc_r101_r18')
  made.phases = ConfigDict()
  made.bn_group_size = 0
  return made


def detection() -> ConfigDict:
  """OFD from SSD300 with ResNet50 to one with ResNet18; see docs/detection."""
  made = config.load('ofd:scenes_detection')
  made.student = config.network('ssd300_resnet18')
  made.teacher.update(config.network('ssd300_resnet50', batch_norm='batch'))
  return _schedule(made)


def detection_vgg16() -> ConfigDict:
  """SSD300 with VGG16 alone."""
  made = config.load('ce:scenes_detection')
  made.student = config.network('ssd300_vgg16')
  return _schedule(made)


def _schedule(made: ConfigDict) -> ConfigDict:
  """Sets the optimizer of ssd.pytorch, and mirrored images without crops."""
  made.optimizer = config.default().optimizer
  made.optimizer.learning_rate = config.step_schedule(1e-3, (160, 200))
  made.optimizer.weight_decay = 5e-4
  made.data.crop_padding, made.data.flip = 0, True
  return made


RECIPES = {
  'segmentation': segmentation,
  'detection': detection,
  'detection_vgg16': detection_vgg16,
}
