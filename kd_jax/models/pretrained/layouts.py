"""The names of kd_jax's layers in the PyTorch code they are converted from.

A layout is the naming scheme of a PyTorch implementation; a network has at
least one. A layout is a list of rules. A rule is a regular expression for the
whole path of a module in kd_jax, such as 'stage2_block1/conv1', and a function
from the groups of the match to the PyTorch name; groups of digits are passed as
integers. A rule may name a single variable too: it then matches the path with
the variable, such as 'positions', and gives the variable's whole name.
"""

from collections.abc import Callable, Iterator
import re
from typing import Any

import flax.linen as nn

from kd_jax.models import (
  convnext,
  deeplab,
  densenet,
  efficientnet,
  googlenet,
  mobilenet,
  pyramidnet,
  regnet,
  resnet,
  shufflenet,
  ssd,
  vgg,
  vit,
  wide_resnet,
)

Rules = list[tuple[str, Callable[..., str]]]
Namer = Callable[[str], str]

BLOCK = r'stage(\d+)_block(\d+)/'


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


def _namer(rules: Rules) -> Namer:
  def name(path: str) -> str:
    for pattern, make in rules:
      if match := re.fullmatch(pattern, path):
        return make(*(int(x) if x.isdigit() else x for x in match.groups()))
    return ''

  return name


def _same(name: str) -> str:
  return name


def _resnet(network: resnet.ResNet) -> dict[str, Rules]:
  if network.stem == 'deep':
    return {'timm': [*_resnet_deep(), ('(fc)', _same)]}

  def rules(shortcut: str, last: str) -> Rules:
    return [*_resnet_trunk(shortcut), ('fc', lambda: last)]

  return {
    'torchvision, timm, RepDistiller, SimKD, FFSD': rules('downsample', 'fc'),
    'RepDistiller (resnetv2.py)': rules('shortcut', 'linear'),
  }


def _resnet_trunk(shortcut: str) -> Rules:
  return [
    ('(conv1|bn1)', _same),
    (
      BLOCK + r'shortcut_(conv|bn)',
      lambda i, j, k: f'layer{i}.{j - 1}.{shortcut}.{int(k == "bn")}',
    ),
    (BLOCK + r'(\w+)', lambda i, j, x: f'layer{i}.{j - 1}.{x}'),
  ]


def _resnet_deep() -> Rules:
  return [
    ('conv1', lambda: 'conv1.6'),
    (
      r'stem_(conv|bn)(\d)',
      lambda kind, n: f'conv1.{3 * (n - 1) + (kind == "bn")}',
    ),
    (
      BLOCK + r'shortcut_(conv|bn)',
      lambda i, j, k: f'layer{i}.{j - 1}.downsample.{1 + (k == "bn")}',
    ),
    *_resnet_trunk('downsample'),
  ]


def _wide_resnet(network: wide_resnet.WideResNet) -> dict[str, Rules]:
  ends: Rules = [('conv1', lambda: 'conv1'), ('bn_last', lambda: 'bn1')]
  if network.variant == 'ffsd':
    return {
      'FFSD': [
        *ends,
        ('fc', lambda: 'linear'),
        (
          BLOCK + 'shortcut_conv',
          lambda i, j: f'layer{i}.{j - 1}.shortcut.0',
        ),
        (BLOCK + r'(\w+)', lambda i, j, x: f'layer{i}.{j - 1}.{x}'),
      ]
    }
  return {
    'RepDistiller, overhaul-distillation': [
      *ends,
      ('(fc)', _same),
      (
        BLOCK + 'shortcut_conv',
        lambda i, j: f'block{i}.layer.{j - 1}.convShortcut',
      ),
      (BLOCK + r'(\w+)', lambda i, j, x: f'block{i}.layer.{j - 1}.{x}'),
    ]
  }


def _vgg(network: vgg.VGG) -> dict[str, Rules]:
  imagenet = network.stem == 'imagenet'

  def layer(i: int, j: int, kind: str) -> str:
    index = 3 * (j - 1) + (kind == 'bn')
    if not imagenet:
      return f'block{i}.{index}'
    # Earlier stages have three modules per layer, and a max-pool.
    return f'features.{index + sum(3 * len(w) + 1 for w in network.widths[:i])}'

  return {
    'torchvision' if imagenet else 'RepDistiller': [
      ('fc', lambda: 'classifier.6' if imagenet else 'classifier'),
      (r'hidden(\d)', lambda n: f'classifier.{3 * (n - 1)}'),
      (r'stem_block(\d+)/(conv|bn)1', lambda j, kind: layer(0, j, kind)),
      (BLOCK + '(conv|bn)1', layer),
    ]
  }


def _ssd_vgg(network: ssd.SSDVGG) -> dict[str, Rules]:
  # Each layer has a ReLU behind it, and each stage a max-pool before it.
  starts = [
    sum(2 * len(widths) + 1 for widths in network.widths[:i])
    for i in range(len(network.widths) + 1)
  ]

  def layer(i: int, j: int) -> str:
    return f'vgg.{starts[i] + 2 * (j - 1)}'

  heads = {'offsets': 'loc', 'logits': 'conf'}
  return {
    'ssd.pytorch': [
      ('l2norm', lambda: 'L2Norm'),
      (r'backbone/stem_block(\d+)', lambda j: layer(0, j)),
      (r'backbone/stage(\d+)_block(\d+)', layer),
      (r'backbone/conv([67])', lambda n: f'vgg.{starts[-1] + 2 * (n - 6)}'),
      (r'extra(\d+)_conv([12])', lambda i, j: f'extras.{2 * i + j - 3}'),
      (r'(offsets|logits)(\d+)', lambda name, i: f'{heads[name]}.{i - 1}'),
    ]
  }


def _mobilenet_v1(network: mobilenet.MobileNetV1) -> dict[str, Rules]:
  def layer(i: int, j: int, kind: str, number: int) -> str:
    before = sum(len(blocks) for blocks in network.stages[: i - 1])
    return f'model.{before + j}.{3 * (number - 1) + (kind == "bn")}'

  return {
    'overhaul-distillation, mdistiller': [
      ('(fc)', _same),
      ('(conv|bn)1', lambda kind: f'model.0.{int(kind == "bn")}'),
      (BLOCK + r'(conv|bn)(\d)', layer),
    ]
  }


def _mobilenet_v2(network: mobilenet.MobileNetV2) -> dict[str, Rules]:
  places = dict(_places(network.stages))
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
  block = BLOCK + r'(conv|bn)(\d)'
  if network.stem == 'cifar':
    return {
      'RepDistiller': [
        ('fc', lambda: 'classifier.0'),
        (ends, lambda kind, n: f'conv{n}.{int(kind == "bn")}'),
        (block, repdistiller),
      ]
    }
  return {
    'torchvision': [
      ('fc', lambda: 'classifier.1'),
      (
        ends,
        lambda kind, n: f'features.{last_index * (n - 1)}.{int(kind == "bn")}',
      ),
      (block, torchvision),
    ],
    'timm': [
      ('fc', lambda: 'classifier'),
      (r'conv(\d)', lambda n: ('conv_stem', 'conv_head')[n - 1]),
      (r'(bn\d)', _same),
      (block, timm),
    ],
  }


def _places(
  stages: tuple[tuple[tuple[int, ...], ...], ...],
) -> Iterator[tuple[tuple[int, int], tuple[int, int, int]]]:
  """Yields the indices by which the PyTorch implementations name a block.

  Args:
    stages: See `mobilenet.MobileNetV2`.

  Yields:
    The stage and the block's number in it, from 1; and the block's row, its
    place in the row, and its position among all blocks, from 0.
  """
  row = position = 0
  for i, rows in enumerate(stages, 1):
    number = 0
    for _, _, blocks, *_ in rows:
      for place in range(blocks):
        number += 1
        yield (i, number), (row, place, position)
        position += 1
      row += 1


def _expands(
  network: mobilenet.MobileNetV2 | deeplab.DeepLabMobileNetV2, i: int, j: int
) -> bool:
  """Returns whether block j of stage i has an expanding 1x1 convolution."""
  expansions = [t for t, _, n, _ in network.stages[i - 1] for _ in range(n)]
  return expansions[j - 1] != 1


def _shufflenet(network: nn.Module) -> dict[str, Rules]:
  return {
    'RepDistiller': [
      (r'((?:conv|bn)\d)', _same),
      ('fc', lambda: 'linear'),
      (
        r'stage(\d+)_unit(\d+)/(\w+)',
        lambda i, j, x: f'layer{i}.{j - 1}.{x}',
      ),
    ]
  }


def _pyramidnet(network: pyramidnet.PyramidNet) -> dict[str, Rules]:
  return {
    'overhaul-distillation': [
      ('(conv1|bn1|fc)', _same),
      ('bn_last', lambda: 'bn_final'),
      (BLOCK + r'(\w+)', lambda i, j, x: f'layer{i}.{j - 1}.{x}'),
    ]
  }


def _densenet(network: densenet.DenseNet) -> dict[str, Rules]:
  return {
    'FFSD': [
      ('(conv1|fc)', _same),
      ('bn_last', lambda: 'bn'),
      (r'transition(\d)_(conv|bn)', lambda i, kind: f'trans{i}.{kind}1'),
      (
        r'stage(\d+)_layer(\d+)/(\w+)',
        lambda i, j, x: f'dense{i}.{j - 1}.{x}',
      ),
    ]
  }


def _googlenet(network: googlenet.GoogLeNet) -> dict[str, Rules]:
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
    'FFSD': [
      ('fc', lambda: 'linear'),
      ('(conv|bn)1', lambda kind: f'pre_layers.{int(kind == "bn")}'),
      (r'stage(\d+)_inception(\d+)/(conv|bn)(\w+)', layer),
    ]
  }


def _mobilenet_trunk(network: deeplab.DeepLabMobileNetV2) -> Rules:
  places = dict(_places(network.stages))

  def layer(i: int, j: int, kind: str, number: int) -> str:
    _, _, position = places[i, j]
    before = number - 1 if _expands(network, i, j) else number - 2
    return f'features.{position + 1}.conv.{3 * before + (kind == "bn")}'

  return [
    ('(conv|bn)1', lambda kind: f'features.0.{int(kind == "bn")}'),
    (BLOCK + r'(conv|bn)(\d)', layer),
  ]


def _deeplab(network: deeplab.DeepLab) -> dict[str, Rules]:
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
    'overhaul-distillation (Segmentation)': [
      *((f'backbone/{pattern}', within(make)) for pattern, make in trunk),
      ('decoder/scores', lambda: 'decoder.last_conv.8'),
      (r'aspp/(conv|bn)_?(\w+)', aspp),
      (r'decoder/(conv|bn)_?(\w+)', decoder),
    ]
  }


def _vit(network: vit.ViT) -> dict[str, Rules]:
  timm = {
    'ln1': 'norm1', 'attention/qkv': 'attn.qkv', 'attention/out': 'attn.proj',
    'ln2': 'norm2', 'hidden': 'mlp.fc1', 'out': 'mlp.fc2',
  }  # fmt: skip
  named = {
    'timm, DeiT': [
      ('class_token', lambda: 'cls_token'),
      ('distillation_token', lambda: 'dist_token'),
      ('positions', lambda: 'pos_embed'),
      ('patch', lambda: 'patch_embed.proj'),
      (r'block(\d+)/([\w/]+)', lambda i, x: _vit_layer('blocks.', timm, i, x)),
      ('ln_last', lambda: 'norm'),
      ('fc', lambda: 'head'),
      ('fc_distilled', lambda: 'head_dist'),
    ]
  }
  if network.distilled:
    return named

  def torchvision(*hidden: str) -> Rules:
    layers = {
      'ln1': 'ln_1', 'attention/out': 'self_attention.out_proj', 'ln2': 'ln_2',
      'attention/qkv/kernel': 'self_attention.in_proj_weight',
      'attention/qkv/bias': 'self_attention.in_proj_bias',
      'hidden': f'mlp.{hidden[0]}', 'out': f'mlp.{hidden[1]}',
    }  # fmt: skip
    start = 'encoder.layers.encoder_layer_'
    return [
      ('(class_token)', _same),
      ('positions', lambda: 'encoder.pos_embedding'),
      ('patch', lambda: 'conv_proj'),
      (r'block(\d+)/([\w/]+)', lambda i, x: _vit_layer(start, layers, i, x)),
      ('ln_last', lambda: 'encoder.ln'),
      ('fc', lambda: 'heads.head'),
    ]

  return {
    **named,
    'torchvision': torchvision('0', '3'),
    'torchvision, before 0.13': torchvision('linear_1', 'linear_2'),
  }


def _vit_layer(start: str, layers: dict[str, str], i: int, layer: str) -> str:
  return f'{start}{i - 1}.{layers[layer]}' if layer in layers else ''


def _convnext(network: convnext.ConvNeXt) -> dict[str, Rules]:
  timm = {'conv1': 'conv_dw', 'ln1': 'norm', 'hidden': 'mlp.fc1',
          'out': 'mlp.fc2'}  # fmt: skip
  torchvision = {'conv1': 0, 'ln1': 2, 'hidden': 3, 'out': 5}
  scale, layer = BLOCK + 'layer_scale', BLOCK + r'(conv1|ln1|hidden|out)'
  shrinks = r'stage(\d+)_(ln|conv)'
  return {
    'timm': [
      (r'stem_(conv|ln)', lambda kind: f'stem.{int(kind == "ln")}'),
      (
        shrinks,
        lambda i, kind: f'stages.{i - 1}.downsample.{int(kind == "conv")}',
      ),
      (scale, lambda i, j: f'stages.{i - 1}.blocks.{j - 1}.gamma'),
      (layer, lambda i, j, x: f'stages.{i - 1}.blocks.{j - 1}.{timm[x]}'),
      ('ln_last', lambda: 'head.norm'),
      ('fc', lambda: 'head.fc'),
    ],
    'torchvision': [
      (r'stem_(conv|ln)', lambda kind: f'features.0.{int(kind == "ln")}'),
      (
        shrinks,
        lambda i, kind: f'features.{2 * i - 2}.{int(kind == "conv")}',
      ),
      (scale, lambda i, j: f'features.{2 * i - 1}.{j - 1}.layer_scale'),
      (
        layer,
        lambda i, j, x: f'features.{2 * i - 1}.{j - 1}.block.{torchvision[x]}',
      ),
      ('ln_last', lambda: 'classifier.0'),
      ('fc', lambda: 'classifier.2'),
    ],
  }


def _inverted(network: efficientnet.InvertedNetwork) -> dict[str, Rules]:
  plans = network.plans()
  starts = [sum(map(len, plans[:i])) for i in range(len(plans))]
  is_v3 = isinstance(network, efficientnet.MobileNetV3)
  places = {} if is_v3 else dict(_places(network.stages))
  parts = sum(map(len, plans if is_v3 else network.stages))
  ends = r'(conv|bn)([12])'
  part = BLOCK + r'(conv|bn)(\d)'
  squeeze = BLOCK + r'squeeze/(reduce|expand)'

  def block(i: int, j: int) -> str:
    if is_v3:
      return f'features.{starts[i - 1] + j}.block'
    row, place, _ = places[i, j]
    return f'features.{row + 1}.{place}.block'

  def torchvision(i: int, j: int, kind: str, number: int) -> str:
    plan = plans[i - 1][j - 1]
    index = number - 2 + plan.expands + (number == 3 and plan.squeezed > 0)
    return f'{block(i, j)}.{index}.{int(kind == "bn")}'

  def squeezed(i: int, j: int, which: str) -> str:
    index = 1 + plans[i - 1][j - 1].expands
    return f'{block(i, j)}.{index}.fc{1 if which == "reduce" else 2}'

  def timm(i: int, j: int, kind: str, number: int) -> str:
    row, place, _ = places[i, j]
    expands = plans[i - 1][j - 1].expands
    if kind == 'bn':
      return f'blocks.{row}.{place}.bn{number if expands else number - 1}'
    name = ('pw', 'dw', 'pwl' if expands else 'pw')[number - 1]
    return f'blocks.{row}.{place}.conv_{name}'

  def timm_squeezed(i: int, j: int, which: str) -> str:
    row, place, _ = places[i, j]
    return f'blocks.{row}.{place}.se.conv_{which}'

  named: dict[str, Rules] = {
    'torchvision': [
      ('hidden', lambda: 'classifier.0'),
      ('fc', lambda: 'classifier.3' if is_v3 else 'classifier.1'),
      (
        ends,
        lambda kind, n: f'features.{(parts + 1) * (n - 1)}.{int(kind == "bn")}',
      ),
      (part, torchvision),
      (squeeze, squeezed),
    ]
  }
  if is_v3:
    return named
  return {
    **named,
    'timm': [
      ('fc', lambda: 'classifier'),
      (r'conv(\d)', lambda n: ('conv_stem', 'conv_head')[n - 1]),
      (r'(bn\d)', _same),
      (part, timm),
      (squeeze, timm_squeezed),
    ],
  }


def _regnet(network: regnet.RegNetY) -> dict[str, Rules]:
  part = BLOCK + r'(conv|bn)(\d)'
  shortcut = BLOCK + r'shortcut_(conv|bn)'
  squeeze = BLOCK + r'squeeze/(reduce|expand)'

  def torchvision(i: int, j: int) -> str:
    return f'trunk_output.block{i}.block{i}-{j - 1}'

  def number(which: str) -> int:
    return 1 if which == 'reduce' else 2

  return {
    'torchvision': [
      ('(fc)', _same),
      ('(conv|bn)1', lambda kind: f'stem.{int(kind == "bn")}'),
      (
        part,
        lambda i, j, kind, n: (
          f'{torchvision(i, j)}.f.{"abc"[n - 1]}.{int(kind == "bn")}'
        ),
      ),
      (
        shortcut,
        lambda i, j, kind: f'{torchvision(i, j)}.proj.{int(kind == "bn")}',
      ),
      (squeeze, lambda i, j, x: f'{torchvision(i, j)}.f.se.fc{number(x)}'),
    ],
    'timm, DeiT': [
      ('fc', lambda: 'head.fc'),
      ('(conv|bn)1', lambda kind: f'stem.{kind}'),
      (part, lambda i, j, kind, n: f's{i}.b{j}.conv{n}.{kind}'),
      (shortcut, lambda i, j, kind: f's{i}.b{j}.downsample.{kind}'),
      (squeeze, lambda i, j, x: f's{i}.b{j}.se.fc{number(x)}'),
    ],
  }


_FAMILIES: dict[type, Callable[[Any], dict[str, Rules]]] = {
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
  vit.ViT: _vit,
  convnext.ConvNeXt: _convnext,
  efficientnet.InvertedNetwork: _inverted,
  regnet.RegNetY: _regnet,
}
