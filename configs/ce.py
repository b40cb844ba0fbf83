"""CE: a network trained on the labels alone, as teachers are.

python -m kd_jax.main --config configs/ce.py
"""

from kd_jax import config as base


def get_config(recipe: str | None = None) -> base.ConfigDict:
  """Returns the configuration of a recipe; None takes `digits`."""
  return base.pick(recipe, RECIPES)


def digits() -> base.ConfigDict:
  """The teacher of all `digits` recipes."""
  return base.of_teacher(base.digits())


def cifar100_r20() -> base.ConfigDict:
  """resnet20 on CIFAR-100 with Tf-FD's recipe, without the method.

  Published: 69.06% top-1 in Tf-FD's ECCV poster, which takes CRD's figure,
  of the last epoch.

    python -m kd_jax.main --config configs/ce.py:cifar100_r20
  """
  return base.tf_fd_recipe('resnet20')


def scenes_segmentation() -> base.ConfigDict:
  """The teacher of all `scenes_segmentation` recipes."""
  return base.of_teacher(base.scenes_segmentation())


def voc_r101() -> base.ConfigDict:
  """The teacher of OFD's segmentation: a DeepLabV3+ with ResNet101 on VOC 2012.

  Published: 77.89% mIoU on val, the best epoch (README of
  overhaul-distillation, whose teacher begins with ImageNet's weights and was
  trained by pytorch-deeplab-xception's script). Give torchvision's file, as
  below: at random less is to be expected. Not yet run.

    python -m kd_jax.main --config configs/ce.py:voc_r101 \\
      --config.data.name=voc:/data --config.student.init=resnet101.pth
  """
  return base.voc_teacher()


def voc_r18() -> base.ConfigDict:
  """DeepLabV3+ with ResNet18 on VOC 2012: OFD's student alone.

  Published: 72.07% mIoU on val, the best epoch (README of
  overhaul-distillation), from ImageNet's weights; see `voc_r101`, with
  resnet18.pth. Not yet run.
  """
  return base.voc('deeplab_resnet18')


def voc_mobilenetv2() -> base.ConfigDict:
  """DeepLabV3+ with MobileNetV2 on VOC 2012: OFD's student alone.

  Published: 68.46% mIoU on val, the best epoch (README of
  overhaul-distillation), from ImageNet's weights; see `voc_r101`, with
  mobilenet_v2.pth. Not yet run.
  """
  return base.voc('deeplab_mobilenetv2')


def scenes_detection() -> base.ConfigDict:
  """The teacher of all `scenes_detection` recipes."""
  return base.of_teacher(base.scenes_detection())


def voc07_ssd_vgg16() -> base.ConfigDict:
  """SSD300 with VGG16 on VOC 2007 and 2012, by ssd.pytorch.

  Published: 77.43% mAP on VOC 2007's test (README of ssd.pytorch, whose VGG16
  begins with ImageNet's weights; without config.student.init it begins at
  random here, and less is to be expected). The normalisation is
  ssd.pytorch's. Not yet run.

    python -m kd_jax.main --config configs/ce.py:voc07_ssd_vgg16 \\
      --config.data.name=voc_boxes:/data
  """
  config = base.voc_boxes('ssd300_vgg16')
  config.data.mean = tuple(x / 255 for x in (123.0, 117.0, 104.0))
  config.data.std = (1 / 255,) * 3
  return config


def voc07_ssd_r50() -> base.ConfigDict:
  """SSD300 with ResNet50 on VOC 2007 and 2012: the teacher of OFD's detection.

  A reconstruction; 76.79% mAP is recalled of the paper, and not verified. See
  `ofd:voc07_ssd_r50_r18`. Not yet run.
  """
  return base.voc_boxes('ssd300_resnet50')


def voc07_ssd_r18() -> base.ConfigDict:
  """SSD300 with ResNet18 on VOC 2007 and 2012: OFD's student alone.

  A reconstruction; 71.61% mAP is recalled of the paper, and not verified. See
  `ofd:voc07_ssd_r50_r18`. Not yet run.
  """
  return base.voc_boxes('ssd300_resnet18')


RECIPES = {
  'digits': digits,
  'cifar100_r20': cifar100_r20,
  'scenes_segmentation': scenes_segmentation,
  'voc_r101': voc_r101,
  'voc_r18': voc_r18,
  'voc_mobilenetv2': voc_mobilenetv2,
  'scenes_detection': scenes_detection,
  'voc07_ssd_vgg16': voc07_ssd_vgg16,
  'voc07_ssd_r50': voc07_ssd_r50,
  'voc07_ssd_r18': voc07_ssd_r18,
}
