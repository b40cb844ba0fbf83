"""The names of the layers of networks after 2019; see `layouts`."""

from collections.abc import Callable, Iterable
import re
from typing import Any

import numpy as np

from kd_jax.models import convnext, efficientnet, regnet, swin, vit
from kd_jax.models.pretrained import naming, states

_LAYER = naming.BLOCK + r'(conv|bn)(\d)'
_SQUEEZE = naming.BLOCK + r'squeeze/(reduce|expand)'
_ENCODER = 'encoder.layers.encoder_layer_'
# timm's ConvNeXts of this first width and more have dense layers in their MLPs,
# the smaller sizes (atto to nano) have 1x1 convolutions.
_DENSE_FROM = 96
# The number of a squeeze-and-excitation's dense layer.
_NUMBERS = {'reduce': 1, 'expand': 2}


def _vit(network: vit.ViT) -> dict[str, naming.Rules]:
  timm = {
    'ln1': 'norm1', 'attention/qkv': 'attn.qkv', 'attention/out': 'attn.proj',
    'ln2': 'norm2', 'hidden': 'mlp.fc1', 'out': 'mlp.fc2',
  }  # fmt: skip
  named: dict[str, naming.Rules] = {
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

  def torchvision(*hidden: str) -> naming.Rules:
    layers = {
      'ln1': 'ln_1', 'attention/out': 'self_attention.out_proj', 'ln2': 'ln_2',
      'attention/qkv/kernel': 'self_attention.in_proj_weight',
      'attention/qkv/bias': 'self_attention.in_proj_bias',
      'hidden': f'mlp.{hidden[0]}', 'out': f'mlp.{hidden[1]}',
    }  # fmt: skip
    return [
      ('(class_token)', naming.same),
      ('positions', lambda: 'encoder.pos_embedding'),
      ('patch', lambda: 'conv_proj'),
      (r'block(\d+)/([\w/]+)', lambda i, x: _vit_layer(_ENCODER, layers, i, x)),
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


def _convnext(network: convnext.ConvNeXt) -> dict[str, naming.Rules]:
  timm = {'conv1': 'conv_dw', 'ln1': 'norm', 'hidden': 'mlp.fc1',
          'out': 'mlp.fc2'}  # fmt: skip
  torchvision = {'conv1': 0, 'ln1': 2, 'hidden': 3, 'out': 5}
  scale, layer = (
    naming.BLOCK + 'layer_scale',
    naming.BLOCK + r'(conv1|ln1|hidden|out)',
  )
  shrinks = r'stage(\d+)_(ln|conv)'
  kind = 'timm (conv_mlp)' if network.widths[0] < _DENSE_FROM else 'timm'
  return {
    kind: [
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


class _Inverted:
  """The names of the layers of inverted blocks.

  A block is given by its stage and its number in it, from 1, a layer by 'conv'
  or 'bn' and its number.
  """

  def __init__(self, network: efficientnet.InvertedNetwork):
    self.plans = network.plans()
    self.is_v3 = isinstance(network, efficientnet.MobileNetV3)
    if isinstance(network, efficientnet.EfficientNet):
      self.places = dict(naming.places(network.stages))
      self.parts = sum(map(len, network.stages))
    else:
      self.parts = sum(map(len, self.plans))

  def end(self, kind: str, number: int) -> str:
    """Returns torchvision's name of a layer of the stem or after the blocks."""
    return f'features.{(self.parts + 1) * (number - 1)}.{int(kind == "bn")}'

  def block(self, i: int, j: int) -> str:
    """Returns torchvision's name of a block."""
    if self.is_v3:
      return f'features.{sum(map(len, self.plans[: i - 1])) + j}.block'
    row, place, _ = self.places[i, j]
    return f'features.{row + 1}.{place}.block'

  def layer(self, i: int, j: int, kind: str, number: int) -> str:
    """Returns torchvision's name of a layer."""
    plan = self.plans[i - 1][j - 1]
    index = number - 2 + plan.expands + (number == 3 and plan.squeezed > 0)
    return f'{self.block(i, j)}.{index}.{int(kind == "bn")}'

  def squeeze(self, i: int, j: int, which: str) -> str:
    """Returns torchvision's name of a layer of the squeeze-and-excitation."""
    index = 1 + self.plans[i - 1][j - 1].expands
    return f'{self.block(i, j)}.{index}.fc{_NUMBERS[which]}'

  def timm_layer(self, i: int, j: int, kind: str, number: int) -> str:
    """Returns timm's name of a layer."""
    row, place, _ = self.places[i, j]
    expands = self.plans[i - 1][j - 1].expands
    if kind == 'bn':
      return f'blocks.{row}.{place}.bn{number if expands else number - 1}'
    name = ('pw', 'dw', 'pwl' if expands else 'pw')[number - 1]
    return f'blocks.{row}.{place}.conv_{name}'

  def timm_squeeze(self, i: int, j: int, which: str) -> str:
    """Returns timm's name of a layer of the squeeze-and-excitation."""
    row, place, _ = self.places[i, j]
    return f'blocks.{row}.{place}.se.conv_{which}'


def _inverted(network: efficientnet.InvertedNetwork) -> dict[str, naming.Rules]:
  names = _Inverted(network)
  fc = 'classifier.3' if names.is_v3 else 'classifier.1'
  named: dict[str, naming.Rules] = {
    'torchvision': [
      ('hidden', lambda: 'classifier.0'),
      ('fc', lambda: fc),
      (r'(conv|bn)([12])', names.end),
      (_LAYER, names.layer),
      (_SQUEEZE, names.squeeze),
    ]
  }
  if names.is_v3:
    return named
  return {
    **named,
    'timm': [
      ('fc', lambda: 'classifier'),
      (r'conv(\d)', lambda n: ('conv_stem', 'conv_head')[n - 1]),
      (r'(bn\d)', naming.same),
      (_LAYER, names.timm_layer),
      (_SQUEEZE, names.timm_squeeze),
    ],
  }


def _regnet(network: regnet.RegNetY) -> dict[str, naming.Rules]:
  shortcut = naming.BLOCK + r'shortcut_(conv|bn)'

  def torchvision(i: int, j: int) -> str:
    return f'trunk_output.block{i}.block{i}-{j - 1}'

  return {
    'torchvision': [
      ('(fc)', naming.same),
      ('(conv|bn)1', lambda kind: f'stem.{int(kind == "bn")}'),
      (
        _LAYER,
        lambda i, j, kind, n: (
          f'{torchvision(i, j)}.f.{"abc"[n - 1]}.{int(kind == "bn")}'
        ),
      ),
      (
        shortcut,
        lambda i, j, kind: f'{torchvision(i, j)}.proj.{int(kind == "bn")}',
      ),
      (_SQUEEZE, lambda i, j, x: f'{torchvision(i, j)}.f.se.fc{_NUMBERS[x]}'),
    ],
    'timm, DeiT': [
      ('fc', lambda: 'head.fc'),
      ('(conv|bn)1', lambda kind: f'stem.{kind}'),
      (_LAYER, lambda i, j, kind, n: f's{i}.b{j}.conv{n}.{kind}'),
      (shortcut, lambda i, j, kind: f's{i}.b{j}.downsample.{kind}'),
      (_SQUEEZE, lambda i, j, x: f's{i}.b{j}.se.fc{_NUMBERS[x]}'),
    ],
  }


def _swin(network: swin.Swin) -> dict[str, naming.Rules]:
  del network
  names = {
    'ln1': 'norm1', 'attention/qkv': 'attn.qkv', 'attention/out': 'attn.proj',
    'attention/positions': f'attn.{states.BIASES}',
    'ln2': 'norm2', 'hidden': 'mlp.0', 'out': 'mlp.3',
  }  # fmt: skip

  def layer(i: int, j: int, name: str) -> str:
    if name not in names:
      return ''
    return f'features.{2 * i - 1}.{j - 1}.{names[name]}'

  def shrinks(i: int, kind: str) -> str:
    last = 'norm' if kind == 'ln' else 'reduction'
    return f'features.{2 * i - 2}.{last}'

  return {
    'torchvision': [
      (r'stem_(conv|ln)', lambda kind: f'features.0.{2 * (kind == "ln")}'),
      (r'stage(\d+)_(ln|reduce)', shrinks),
      (naming.BLOCK + r'([\w/]+)', layer),
      ('ln_map', lambda: 'norm'),
      ('fc', lambda: 'head'),
    ]
  }


def buffers(network: Any, names: Iterable[str]) -> dict[str, np.ndarray]:
  """Returns what a PyTorch class's state dict has beside the parameters.

  A Swin's windows have the index [w^4] i64 of their biases. What counts batches
  is left out.

  Args:
    network: The network.
    names: PyTorch's names of its variables.
  """
  if not isinstance(network, swin.Swin):
    return {}
  index = swin.position_index(network.window)
  return {
    name.replace(states.BIASES, states.INDEX): index
    for name in names
    if name.endswith(states.BIASES)
  }


def sides_of_1(network: Any, layout: str, path: str) -> int:
  """Returns how many sides of 1 a PyTorch class adds to a variable's shape.

  Squeeze-and-excitations are dense layers [I,O] here and 1x1 convolutions
  [O,I,1,1] there, and so are the MLPs of timm's small ConvNeXts. A layer scale
  [C] is [C,1,1] in torchvision's ConvNeXt.

  Args:
    network: The network.
    layout: The name of the layout, which says the class.
    path: The variable's path without its collection.
  """
  pattern = r'[^/]+/squeeze/(reduce|expand)/kernel'
  if isinstance(network, convnext.ConvNeXt):
    pattern = {
      'torchvision': '[^/]+/layer_scale',
      'timm (conv_mlp)': '[^/]+/(hidden|out)/kernel',
    }.get(layout, '')
  return 2 if re.fullmatch(pattern, path) else 0


FAMILIES: dict[type, Callable[[Any], dict[str, naming.Rules]]] = {
  vit.ViT: _vit,
  swin.Swin: _swin,
  convnext.ConvNeXt: _convnext,
  efficientnet.InvertedNetwork: _inverted,
  regnet.RegNetY: _regnet,
}
