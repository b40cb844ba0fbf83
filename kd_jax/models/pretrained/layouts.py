"""The names of kd_jax's layers in the PyTorch code they are converted from.

A layout is the naming scheme of a PyTorch implementation, whose class its name
says; a network has at least one. A layout is a list of rules. A rule is a
regular expression for the whole path of a module in kd_jax, such as
'stage2_block1/conv1', and a function from the groups of the match to the
PyTorch name; groups of digits are passed as integers. A rule may name a single
variable too: it then matches the path with the variable, such as 'positions',
and gives the variable's whole name.
"""

from collections.abc import Callable
import re
from typing import Any

import flax.linen as nn

from kd_jax.models import (
  deeplab,
  densenet,
  googlenet,
  mobilenet,
  pyramidnet,
  resnet,
  shufflenet,
  ssd,
  vgg,
  wide_resnet,
)
from kd_jax.models.pretrained import layouts_recent, naming

Namer = Callable[[str], str]


def layouts(network: nn.Module) -> dict[str, Namer]:
  """Returns the layouts of a network.

  Args:
    network: The network.

  Returns:
    By name of the layout, a function from the path of a module or a variable to
    its PyTorch name, '' where no rule has it; empty for a network that is not
    one of `kd_jax.models`.
  """
  for cls, rules_of in _FAMILIES.items():
    if isinstance(network, cls):
      return {name: _namer(rules) for name, rules in rules_of(network).items()}
  return {}


def _namer(rules: naming.Rules) -> Namer:
  def name(path: str) -> str:
    for pattern, make in rules:
      if match := re.fullmatch(pattern, path):
        return make(*(int(x) if x.isdigit() else x for x in match.groups()))
    return ''

  return name


def _resnet(network: resnet.ResNet) -> dict[str, naming.Rules]:
  if network.stem == 'deep':
    return {'timm': [*_resnet_deep(), ('(fc)', naming.same)]}

  def rules(shortcut: str, last: str) -> naming.Rules:
    return [*_resnet_trunk(shortcut), ('fc', lambda: last)]

  usual, second = rules('downsample', 'fc'), rules('shortcut', 'linear')
  version_2 = 'RepDistiller (models/resnetv2.py: ResNet)'
  if network.stem == 'imagenet':
    return {'torchvision, timm (ResNet)': usual, version_2: second}
  if len(network.stage_sizes) == 3:
    name = 'RepDistiller, SimKD, FFSD (models/resnet.py: ResNet)'
    return {name: usual, version_2: second}
  return {version_2: second, 'torchvision, timm (ResNet)': usual}


def _resnet_trunk(shortcut: str) -> naming.Rules:
  return [
    ('(conv1|bn1)', naming.same),
    (
      naming.BLOCK + r'shortcut_(conv|bn)',
      lambda i, j, k: f'layer{i}.{j - 1}.{shortcut}.{int(k == "bn")}',
    ),
    (naming.BLOCK + r'(\w+)', lambda i, j, x: f'layer{i}.{j - 1}.{x}'),
  ]


def _resnet_deep() -> naming.Rules:
  return [
    ('conv1', lambda: 'conv1.6'),
    (
      r'stem_(conv|bn)(\d)',
      lambda kind, n: f'conv1.{3 * (n - 1) + (kind == "bn")}',
    ),
    (
      naming.BLOCK + r'shortcut_(conv|bn)',
      lambda i, j, k: f'layer{i}.{j - 1}.downsample.{1 + (k == "bn")}',
    ),
    *_resnet_trunk('downsample'),
  ]


def _wide_resnet(network: wide_resnet.WideResNet) -> dict[str, naming.Rules]:
  ends: naming.Rules = [('conv1', lambda: 'conv1'), ('bn_last', lambda: 'bn1')]
  if network.variant == 'ffsd':
    return {
      'FFSD (models/wideresnet_cifar.py: Wide_ResNet)': [
        *ends,
        ('fc', lambda: 'linear'),
        (
          naming.BLOCK + 'shortcut_conv',
          lambda i, j: f'layer{i}.{j - 1}.shortcut.0',
        ),
        (naming.BLOCK + r'(\w+)', lambda i, j, x: f'layer{i}.{j - 1}.{x}'),
      ]
    }
  return {
    'RepDistiller, overhaul-distillation (WideResNet)': [
      *ends,
      ('(fc)', naming.same),
      (
        naming.BLOCK + 'shortcut_conv',
        lambda i, j: f'block{i}.layer.{j - 1}.convShortcut',
      ),
      (naming.BLOCK + r'(\w+)', lambda i, j, x: f'block{i}.layer.{j - 1}.{x}'),
    ]
  }


def _vgg(network: vgg.VGG) -> dict[str, naming.Rules]:
  imagenet = network.stem == 'imagenet'

  def layer(i: int, j: int, kind: str) -> str:
    index = 3 * (j - 1) + (kind == 'bn')
    if not imagenet:
      return f'block{i}.{index}'
    # Earlier stages have three modules per layer, and a max-pool.
    return f'features.{index + sum(3 * len(w) + 1 for w in network.widths[:i])}'

  return {
    'torchvision (VGG with BatchNorm)'
    if imagenet
    else 'RepDistiller (models/vgg.py: VGG)': [
      ('fc', lambda: 'classifier.6' if imagenet else 'classifier'),
      (r'hidden(\d)', lambda n: f'classifier.{3 * (n - 1)}'),
      (r'stem_block(\d+)/(conv|bn)1', lambda j, kind: layer(0, j, kind)),
      (naming.BLOCK + '(conv|bn)1', layer),
    ]
  }


def _ssd_vgg(network: ssd.SSDVGG) -> dict[str, naming.Rules]:
  # Each layer has a ReLU behind it, and each stage a max-pool before it.
  starts = [
    sum(2 * len(widths) + 1 for widths in network.widths[:i])
    for i in range(len(network.widths) + 1)
  ]

  def layer(i: int, j: int) -> str:
    return f'vgg.{starts[i] + 2 * (j - 1)}'

  heads = {'offsets': 'loc', 'logits': 'conf'}
  return {
    'ssd.pytorch (ssd.py: SSD)': [
      ('l2norm', lambda: 'L2Norm'),
      (r'backbone/stem_block(\d+)', lambda j: layer(0, j)),
      (r'backbone/stage(\d+)_block(\d+)', layer),
      (r'backbone/conv([67])', lambda n: f'vgg.{starts[-1] + 2 * (n - 6)}'),
      (r'extra(\d+)_conv([12])', lambda i, j: f'extras.{2 * i + j - 3}'),
      (r'(offsets|logits)(\d+)', lambda name, i: f'{heads[name]}.{i - 1}'),
    ]
  }


def _mobilenet_v1(network: mobilenet.MobileNetV1) -> dict[str, naming.Rules]:
  def layer(i: int, j: int, kind: str, number: int) -> str:
    before = sum(len(blocks) for blocks in network.stages[: i - 1])
    return f'model.{before + j}.{3 * (number - 1) + (kind == "bn")}'

  return {
    'overhaul-distillation, mdistiller (MobileNet)': [
      ('(fc)', naming.same),
      ('(conv|bn)1', lambda kind: f'model.0.{int(kind == "bn")}'),
      (naming.BLOCK + r'(conv|bn)(\d)', layer),
    ]
  }


def _mobilenet_v2(network: mobilenet.MobileNetV2) -> dict[str, naming.Rules]:
  places = dict(naming.places(network.stages))
  last_index = len(places) + 1

  def repdistiller(i: int, j: int, kind: str, number: int) -> str:
    row, place, _ = places[i, j]
    return f'blocks.{row}.{place}.conv.{3 * (number - 1) + (kind == "bn")}'

  def torchvision(i: int, j: int, kind: str, number: int) -> str:
    _, _, position = places[i, j]
    bn = kind == 'bn'
    index = number - 1 if _expands(network, i, j) else number - 2
    inner = f'{index + bn}' if number == 3 else f'{index}.{int(bn)}'
    return f'features.{position + 1}.conv.{inner}'

  def timm(i: int, j: int, kind: str, number: int) -> str:
    row, place, _ = places[i, j]
    expands = _expands(network, i, j)
    if kind == 'bn':
      return f'blocks.{row}.{place}.bn{number if expands else number - 1}'
    part = ('pw', 'dw', 'pwl' if expands else 'pw')[number - 1]
    return f'blocks.{row}.{place}.conv_{part}'

  ends = r'(conv|bn)([12])'
  block = naming.BLOCK + r'(conv|bn)(\d)'
  if network.stem == 'cifar':
    return {
      'RepDistiller (models/mobilenetv2.py: MobileNetV2)': [
        ('fc', lambda: 'classifier.0'),
        (ends, lambda kind, n: f'conv{n}.{int(kind == "bn")}'),
        (block, repdistiller),
      ]
    }
  return {
    'torchvision (MobileNetV2)': [
      ('fc', lambda: 'classifier.1'),
      (
        ends,
        lambda kind, n: f'features.{last_index * (n - 1)}.{int(kind == "bn")}',
      ),
      (block, torchvision),
    ],
    'timm (EfficientNet, as mobilenetv2_100 makes it)': [
      ('fc', lambda: 'classifier'),
      (r'conv(\d)', lambda n: ('conv_stem', 'conv_head')[n - 1]),
      (r'(bn\d)', naming.same),
      (block, timm),
    ],
  }


def _expands(
  network: mobilenet.MobileNetV2 | deeplab.DeepLabMobileNetV2, i: int, j: int
) -> bool:
  """Returns whether block j of stage i has an expanding 1x1 convolution."""
  expansions = [t for t, _, n, _ in network.stages[i - 1] for _ in range(n)]
  return expansions[j - 1] != 1


def _shufflenet(network: nn.Module) -> dict[str, naming.Rules]:
  version = 1 if isinstance(network, shufflenet.ShuffleNetV1) else 2
  cls = 'ShuffleNetV2' if version == 2 else 'ShuffleNet'
  return {
    f'RepDistiller (models/ShuffleNetv{version}.py: {cls})': [
      (r'((?:conv|bn)\d)', naming.same),
      ('fc', lambda: 'linear'),
      (
        r'stage(\d+)_unit(\d+)/(\w+)',
        lambda i, j, x: f'layer{i}.{j - 1}.{x}',
      ),
    ]
  }


def _pyramidnet(network: pyramidnet.PyramidNet) -> dict[str, naming.Rules]:
  return {
    'overhaul-distillation (CIFAR-100/models/PyramidNet.py: PyramidNet)': [
      ('(conv1|bn1|fc)', naming.same),
      ('bn_last', lambda: 'bn_final'),
      (naming.BLOCK + r'(\w+)', lambda i, j, x: f'layer{i}.{j - 1}.{x}'),
    ]
  }


def _densenet(network: densenet.DenseNet) -> dict[str, naming.Rules]:
  return {
    'FFSD (models/densenet_cifar.py: DenseNet)': [
      ('(conv1|fc)', naming.same),
      ('bn_last', lambda: 'bn'),
      (r'transition(\d)_(conv|bn)', lambda i, kind: f'trans{i}.{kind}1'),
      (
        r'stage(\d+)_layer(\d+)/(\w+)',
        lambda i, j, x: f'dense{i}.{j - 1}.{x}',
      ),
    ]
  }


def _googlenet(network: googlenet.GoogLeNet) -> dict[str, naming.Rules]:
  convolutions = {
    '1': ('branch1x1', 0),
    '2a': ('branch3x3', 0),
    '2b': ('branch3x3', 3),
    '3a': ('branch5x5', 0),
    '3b': ('branch5x5', 3),
    '3c': ('branch5x5', 6),
    '4': ('branch_pool', 1),
  }

  def layer(i: int, j: int, kind: str, number: int | str) -> str:
    branch, index = convolutions[str(number)]
    block = f'inception_{"abcde"[j - 1]}{i + 2}'
    return f'{block}.{branch}.{index + (kind == "bn")}'

  return {
    'FFSD (models/googlenet_cifar.py: GoogLeNet)': [
      ('fc', lambda: 'linear'),
      ('(conv|bn)1', lambda kind: f'pre_layers.{int(kind == "bn")}'),
      (r'stage(\d+)_inception(\d+)/(conv|bn)(\w+)', layer),
    ]
  }


def _mobilenet_trunk(network: deeplab.DeepLabMobileNetV2) -> naming.Rules:
  places = dict(naming.places(network.stages))

  def layer(i: int, j: int, kind: str, number: int) -> str:
    _, _, position = places[i, j]
    before = number - 1 if _expands(network, i, j) else number - 2
    return f'features.{position + 1}.conv.{3 * before + (kind == "bn")}'

  return [
    ('(conv|bn)1', lambda kind: f'features.0.{int(kind == "bn")}'),
    (naming.BLOCK + r'(conv|bn)(\d)', layer),
  ]


def _deeplab(network: deeplab.DeepLab) -> dict[str, naming.Rules]:
  def aspp(kind: str, number: int | str) -> str:
    bn = kind == 'bn'
    if number == 'pool':
      return f'aspp.global_avg_pool.{1 + bn}'
    if number == 'last':
      return f'aspp.{kind}1'
    return f'aspp.aspp{number}.{"bn" if bn else "atrous_conv"}'

  def decoder(kind: str, number: int | str) -> str:
    if number == 'low':
      return f'decoder.{kind}1'
    return f'decoder.last_conv.{4 * (int(number) - 1) + (kind == "bn")}'

  def within(make: Callable[..., str]) -> Callable[..., str]:
    return lambda *groups: f'backbone.{make(*groups)}'

  trunk = (
    _mobilenet_trunk(network)
    if isinstance(network, deeplab.DeepLabMobileNetV2)
    else _resnet_trunk('downsample')
  )
  return {
    'overhaul-distillation (Segmentation: DeepLab)': [
      *((f'backbone/{pattern}', within(make)) for pattern, make in trunk),
      ('decoder/scores', lambda: 'decoder.last_conv.8'),
      (r'aspp/(conv|bn)_?(\w+)', aspp),
      (r'decoder/(conv|bn)_?(\w+)', decoder),
    ]
  }


_FAMILIES: dict[type, Callable[[Any], dict[str, naming.Rules]]] = {
  resnet.ResNet: _resnet,
  wide_resnet.WideResNet: _wide_resnet,
  vgg.VGG: _vgg,
  ssd.SSDVGG: _ssd_vgg,
  mobilenet.MobileNetV1: _mobilenet_v1,
  mobilenet.MobileNetV2: _mobilenet_v2,
  shufflenet.ShuffleNetV1: _shufflenet,
  shufflenet.ShuffleNetV2: _shufflenet,
  pyramidnet.PyramidNet: _pyramidnet,
  densenet.DenseNet: _densenet,
  googlenet.GoogLeNet: _googlenet,
  deeplab.DeepLab: _deeplab,
  **layouts_recent.FAMILIES,
}
