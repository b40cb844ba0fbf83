"""The layers of dense networks' backbones in the files of classifiers.

A DeepLab and an SSD have the layers of a classifier in their module 'backbone'.
"""

from collections.abc import Mapping
import math
from typing import Any, NamedTuple

import flax.linen as nn

from kd_jax.models import deeplab, mobilenet, resnet, ssd
from kd_jax.models.pretrained import layouts, torch_save

MODULE = 'backbone'
# Layers of classifiers that no backbone has.
ENDS = ('fc', 'conv2', 'bn2')
# The classifiers' layers that VGG's last convolutions are made of; the side of
# the map that the first reads.
_HIDDEN, _SIDE = {'classifier.0': 'conv6', 'classifier.3': 'conv7'}, 7


class Layout(NamedTuple):
  """How a classifier's PyTorch code names the layers of a backbone.

  Attributes:
    name: The name of the layout.
    namer: A function from a module's path in the backbone to its name, '' if
      there is none.
    own: The names of layers that the classifier alone has.
    may_lack: The modules of the backbone that a file may lack.
  """

  name: str
  namer: layouts.Namer
  own: tuple[str, ...]
  may_lack: tuple[str, ...] = ()


def of(network: nn.Module) -> list[Layout]:
  """Returns how classifiers name the layers of a network's backbone.

  They are torchvision's and timm's, and RepDistiller's ResNets; of the VGG
  without BatchNorm also the one that SSD's authors made of it,
  vgg16_reducedfc.pth of ssd.pytorch.

  Args:
    network: The network; one without a backbone of `kd_jax.models` has none.
  """
  if isinstance(network, ssd.SSDVGG):
    return [
      Layout('torchvision', _vgg(network, 'features.'), ('classifier.6',),
             tuple(_HIDDEN.values())),
      Layout('vgg16_reducedfc of ssd.pytorch', _vgg(network, ''), ()),
    ]  # fmt: skip
  classifier = _classifier(network)
  if classifier is None:
    return []
  ends = ENDS if isinstance(classifier, mobilenet.MobileNetV2) else ENDS[:1]
  return [
    Layout(name, namer, tuple(map(namer, ends)))
    for name, namer in layouts.layouts(classifier).items()
  ]


def _classifier(network: nn.Module) -> nn.Module | None:
  """Returns a classifier with the layers of a network's backbone."""
  if isinstance(network, deeplab.DeepLabMobileNetV2):
    return mobilenet.MobileNetV2(num_classes=1, stages=network.stages)
  if isinstance(network, deeplab.DeepLabResNet | ssd.SSDResNet):
    return resnet.ResNet(
      num_classes=1,
      stage_sizes=network.stage_sizes,
      widths=network.widths,
      bottleneck=network.bottleneck,
      stem=network.stem,
    )
  return None


def _vgg(network: ssd.SSDVGG, before: str) -> layouts.Namer:
  """Returns the names of a VGG's layers, of which each has a ReLU behind it."""
  (rules,) = layouts.layouts(network).values()

  def name(path: str) -> str:
    of_ssd = rules(f'{MODULE}/{path}').removeprefix('vgg.')
    hidden = {module: layer for layer, module in _HIDDEN.items()}
    if before and path in hidden:
      return hidden[path]
    return of_ssd and before + of_ssd

  return name


def with_convolutions(
  weights: Mapping[str, torch_save.Tensor], hidden: int
) -> dict[str, torch_save.Tensor]:
  """Returns a VGG's weights with its hidden layers as convolutions.

  Of the first linear layer, which reads a map of 7x7, every third row and
  column and every (units / hidden)-th unit is kept, of the second every such
  input and unit: [4096,25088] becomes [1024,512,3,3], and [4096,4096] becomes
  [1024,1024,1,1]. Layers of other shapes are left out.

  Args:
    weights: The weights by torchvision's names.
    hidden: The channels of the convolutions.

  Source: Liu et al., ECCV 2016, section 3.1, which subsamples fc6 and fc7
  without saying which units are kept; that they are evenly spaced is ours.
  """
  made = dict(weights)
  for layer in _HIDDEN:
    kernel = made.pop(f'{layer}.weight', None)
    bias = made.pop(f'{layer}.bias', None)
    if kernel is None or bias is None or len(kernel.shape) != 2:
      continue
    units, inputs = kernel.shape
    side = _SIDE if layer == next(iter(_HIDDEN)) else 1
    if units % hidden or inputs % (side**2) or bias.shape != (units,):
      continue
    every = units // hidden
    if side == 1 and inputs % every:
      continue
    made[f'{layer}.weight'] = _subsampled(kernel, every, side)
    made[f'{layer}.bias'] = _every(bias, every)
  return made


def _subsampled(
  kernel: torch_save.Tensor, every: int, side: int
) -> torch_save.Tensor:
  units, inputs = kernel.shape
  channels = inputs // side**2
  kept = channels if side > 1 else channels // every
  kept_side = math.ceil(side / 3)

  def values() -> Any:
    value = kernel.values().reshape(units, channels, side, side)
    step = 1 if side > 1 else every
    return value[::every, ::step, ::3, ::3]

  shape = (units // every, kept, kept_side, kept_side)
  return torch_save.Tensor(kernel.dtype, shape, values)


def _every(bias: torch_save.Tensor, every: int) -> torch_save.Tensor:
  shape = (bias.shape[0] // every,)
  return torch_save.Tensor(bias.dtype, shape, lambda: bias.values()[::every])
