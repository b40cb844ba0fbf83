"""The original networks whose outputs make_networks.py stores.

The file is longer than others because it is a table: for each network, how the
original is made, where the taps are in it, and which arguments of kd_jax's
network make it equal.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

Taps = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
  """An original network.

  Attributes:
    network: The name of kd_jax's network.
    make: Makes the original; its argument loads modules, see `Originals`.
    taps: The place of each tap in the original; see `make_networks.record`.
    args: The arguments of kd_jax's network.
    shapes: The shapes of the batches [N,H,W,3] that it runs on.
    num_classes: The number of classes, K.
  """

  network: str
  make: Callable[[Any], Any]
  taps: Taps
  args: dict[str, Any] = dataclasses.field(default_factory=dict)
  shapes: tuple[tuple[int, ...], ...] = ((2, 32, 32, 3), (3, 37, 29, 3))
  num_classes: int = 7


LARGE = ((1, 64, 64, 3), (2, 75, 59, 3))


def _stages(count, post=None, stem='in:layer1', **more):
  """Returns taps of stages that return (map, map before the ReLU)."""
  taps = {'stem': stem}
  for i in range(1, count + 1):
    taps |= {f'stage{i}': f'layer{i}:0', f'stage{i}_pre': f'layer{i}:1'}
  return taps | ({f'stage{count}_post': post} if post else {}) | more


def _blocks(last, relu, stem):
  """Returns taps of ResNets whose stages do not return pairs.

  'stage{i}_pre' is the input of the last ReLU of a stage.
  """
  taps = {'stem': stem}
  for i, j in enumerate(last, 1):
    taps |= {
      f'stage{i}': f'layer{i}',
      f'stage{i}_pre': f'in:layer{i}.{j}.{relu}',
    }
  return taps


WRN = {
  'stem': 'conv1',
  'stage1': 'block1',
  'stage1_pre': 'block2.layer.0.bn1',
  'stage2': 'block2',
  'stage2_pre': 'block3.layer.0.bn1',
  'stage3': 'block3',
  'stage3_pre': 'bn1',
  'stage3_post': 'relu',
}
WRN_FFSD = {
  'stem': 'conv1',
  'stage1': 'layer1',
  'stage1_pre': 'layer2.0.bn1',
  'stage2': 'layer2',
  'stage2_pre': 'layer3.0.bn1',
  'stage3': 'layer3',
  'stage3_pre': 'bn1',
  'stage3_post': 'relu1',
}
VGG = {
  'stem': 'in:pool0',
  'stage1': 'in:pool1',
  'stage1_pre': 'block1',
  'stage2': 'in:pool2',
  'stage2_pre': 'block2',
  'stage3': 'relu:block3',
  'stage3_pre': 'block3',
  'stage4': 'in:pool4',
  'stage4_pre': 'block4',
}
MOBILE_V1 = {'stem': 'model.0'}
for _i, _n in enumerate((3, 5, 11, 13), 1):
  MOBILE_V1 |= {f'stage{_i}': f'model.{_n}', f'stage{_i}_pre': f'model.{_n}.4'}


def _mobile_v2(stem, stages, post):
  taps = {'stem': stem, 'stage4_post': post}
  for i, name in enumerate(stages, 1):
    taps |= {f'stage{i}': name, f'stage{i}_pre': name}
  return taps


MOBILE_V2 = _mobile_v2(
  'conv1', ('blocks.1', 'blocks.2', 'blocks.4', 'blocks.6'), 'conv2'
)
MOBILE_V2_TORCHVISION = _mobile_v2(
  'features.0',
  ('features.3', 'features.6', 'features.13', 'features.17'),
  'features.18',
)
MOBILE_V2_TIMM = _mobile_v2(
  'bn1', ('blocks.1', 'blocks.2', 'blocks.4', 'blocks.6'), 'bn2'
)


def _resnet(name, depth, filters, repository='RepDistiller'):
  def make(load):
    cls = load(repository, 'models/resnet.py').ResNet
    return cls(depth, filters, num_classes=7)

  if repository == 'RepDistiller':
    return Case(name, make, _stages(3, stem='relu'))
  last = ((depth - 2) // 6 - 1,) * 3
  return Case(name, make, _blocks(last, 'relu', 'relu'))


def _resnet_v2(name, block, sizes, **args):
  def make(load):
    module = load('RepDistiller', 'models/resnetv2.py')
    return module.ResNet(getattr(module, block), sizes, num_classes=7)

  return Case(name, make, _stages(4), {'stem': 'cifar', **args})


def _resnet_torchvision(name, block, sizes, **args):
  def make(_):
    from torchvision.models import resnet

    return resnet.ResNet(getattr(resnet, block), sizes, num_classes=7)

  taps = _blocks([n - 1 for n in sizes], 'relu', 'relu')
  return Case(name, make, taps, args, LARGE)


def _resnet_timm(name, block, sizes, **args):
  def make(_):
    from timm.models import resnet

    return resnet.ResNet(getattr(resnet, block), sizes, num_classes=7)

  act = 'act2' if block == 'BasicBlock' else 'act3'
  taps = _blocks([n - 1 for n in sizes], act, 'act1')
  return Case(name, make, taps, args, LARGE)


def _wrn(name, depth, widen, repository='RepDistiller', **args):
  path = {
    'RepDistiller': 'models/wrn.py',
    'overhaul-distillation': 'CIFAR-100/models/WideResNet.py',
  }[repository]

  def make(load):
    cls = load(repository, path).WideResNet
    return cls(depth=depth, num_classes=7, widen_factor=widen)

  return Case(name, make, WRN, args)


def _wrn_ffsd(name, depth, factor, **args):
  def make(load):
    module = load('FFSD', 'models/wideresnet_cifar.py')
    return module.Wide_ResNet(depth, factor, 0, 7)

  return Case(name, make, WRN_FFSD, args)


def _vgg(name):
  def make(load):
    module = load('RepDistiller', 'models/vgg.py')
    return getattr(module, f'{name}_bn')(num_classes=7)

  shapes = ((1, 64, 40, 3), (2, 32, 32, 3), (3, 37, 29, 3))
  return Case(name, make, VGG, shapes=shapes)


def _vgg_torchvision(name, variant, size):
  def make(_):
    from torchvision.models import vgg

    layers = vgg.make_layers(vgg.cfgs[variant], batch_norm=True)
    network = vgg.VGG(layers, num_classes=7, init_weights=False)
    if size:  # the original's 4096 take a minute to initialise
      import torch

      network.classifier[0] = torch.nn.Linear(512 * 7 * 7, size)
      network.classifier[3] = torch.nn.Linear(size, size)
      network.classifier[6] = torch.nn.Linear(size, 7)
    return network

  pools, at = [], 0
  for count in {'A': '11222', 'B': '22222', 'D': '22333', 'E': '22444'}[
    variant
  ]:
    at += 3 * int(count)
    pools.append(at)
    at += 1
  taps = {'stem': f'in:features.{pools[0]}'}
  for i, pool in enumerate(pools[1:], 1):
    # A BatchNorm and a ReLU precede each pool.
    taps[f'stage{i}'] = f'in:features.{pool}'
    taps[f'stage{i}_pre'] = f'features.{pool - 2}'
  args = {'hidden': size} if size else {}
  shapes = ((1, 224, 224, 3), (2, 75, 59, 3))
  return Case(name, make, taps, args, shapes)


def _mobile_v1(name):
  def make(load):
    path = 'ImageNet/models/MobileNet.py'
    return load('overhaul-distillation', path).MobileNet()

  return Case(name, make, MOBILE_V1, {}, LARGE, 1000)


def _mobile_v2_cifar(name, factor=0.5, **args):
  def make(load):
    module = load('RepDistiller', 'models/mobilenetv2.py')
    return module.mobilenetv2_T_w(6, factor, 7)

  return Case(name, make, MOBILE_V2, args)


def _mobile_v2_torchvision(name, factor=1.0, **args):
  def make(_):
    from torchvision.models import mobilenetv2

    return mobilenetv2.MobileNetV2(7, factor)

  return Case(name, make, MOBILE_V2_TORCHVISION, args, LARGE)


def _mobile_v2_timm(name, variant, **args):
  def make(_):
    import timm

    return timm.create_model(variant, pretrained=False, num_classes=7)

  return Case(name, make, MOBILE_V2_TIMM, args, LARGE)


def _shuffle_v1(name, cfg=None, **args):
  def make(load):
    module = load('RepDistiller', 'models/ShuffleNetv1.py')
    if cfg is None:
      return module.ShuffleV1(num_classes=7)
    return module.ShuffleNet(cfg, num_classes=7)

  return Case(name, make, _stages(3), args)


def _shuffle_v2(name, size, repository='RepDistiller', **args):
  def make(load):
    module = load(repository, 'models/ShuffleNetv2.py')
    return module.ShuffleNetV2(net_size=size, num_classes=7)

  return Case(name, make, _stages(3, 'relu:bn2'), args)


def _pyramid(name, layers, widening, bottleneck, **args):
  def make(load):
    import torch

    # The original allocates its padding by torch.cuda.FloatTensor.
    torch.cuda.FloatTensor = torch.FloatTensor
    path = 'CIFAR-100/models/PyramidNet.py'
    cls = load('overhaul-distillation', path).PyramidNet
    return cls(layers, widening, 7, bottleneck)

  norm = 'bn2' if bottleneck else 'bn1'
  taps = {
    'stem': 'bn1',
    'stage1': 'layer1',
    'stage1_pre': f'layer2.0.{norm}',
    'stage2': 'layer2',
    'stage2_pre': f'layer3.0.{norm}',
    'stage3': 'layer3',
    'stage3_pre': 'bn_final',
    'stage3_post': 'relu_final',
  }
  return Case(name, make, taps, args)


def _dense(name, number=40, **args):
  def make(load):
    cls = load('FFSD', 'models/densenet_cifar.py').DenseNet
    return cls(depth=number, num_classes=7)

  taps = {
    'stem': 'conv1',
    'stage1': 'dense1',
    'stage1_pre': 'trans1.bn1',
    'stage2': 'dense2',
    'stage2_pre': 'trans2.bn1',
    'stage3': 'dense3',
    'stage3_pre': 'bn',
    'stage3_post': 'relu',
  }
  return Case(name, make, taps, args)


def _google(name):
  def make(load):
    return load('FFSD', 'models/googlenet_cifar.py').googlenet(num_classes=7)

  taps = {'stem': 'pre_layers'}
  norms = ('branch1x1.1', 'branch3x3.4', 'branch5x5.7', 'branch_pool.2')
  for i, block in enumerate(('b3', 'e4', 'b5'), 1):
    taps[f'stage{i}'] = f'inception_{block}'
    taps[f'stage{i}_pre'] = [f'inception_{block}.{norm}' for norm in norms]
  return Case(name, make, taps, shapes=((2, 32, 32, 3), (3, 21, 17, 3)))


def _vit_taps(start, tokens, ends, patch, norm):
  taps = {'stem': patch, 'pooled': f'token0:{norm}'}
  for i, end in enumerate(ends, 1):
    place = f'map{tokens}:{start}{end}'
    taps |= {f'stage{i}': place, f'stage{i}_pre': place}
  return taps


def _vit_torchvision(name, size, patch, width, depth, heads, **args):
  def make(_):
    from torchvision.models import vision_transformer

    return vision_transformer.VisionTransformer(
      size, patch, depth, heads, width, 4 * width, num_classes=7
    )

  ends = [depth * i // 4 - 1 for i in range(1, 5)]
  start = 'encoder.layers.encoder_layer_'
  taps = _vit_taps(start, 1, ends, 'conv_proj', 'encoder.ln')
  args |= {'image_size': size, 'patch': patch, 'embedding': width}
  args |= {'depth': depth, 'heads': heads}
  return Case(name, make, taps, args, ((2, size, size, 3),))


def _vit_timm(name, size, patch, width, depth, heads, **args):
  distilled = name.startswith('deit')

  def make(_):
    from timm.models import deit, vision_transformer

    kinds = (
      vision_transformer.VisionTransformer,
      deit.VisionTransformerDistilled,
    )
    return kinds[distilled](
      img_size=size,
      patch_size=patch,
      embed_dim=width,
      depth=depth,
      num_heads=heads,
      num_classes=7,
    )

  stages = args.get('stages', 4)
  ends = [depth * i // stages - 1 for i in range(1, stages + 1)]
  taps = _vit_taps('blocks.', 1 + distilled, ends, 'map0:patch_embed', 'norm')
  if distilled:
    taps |= {'class_logits': 'head', 'distilled_logits': 'head_dist'}
  args |= {'image_size': size, 'patch': patch, 'embedding': width}
  args |= {'depth': depth, 'heads': heads}
  return Case(name, make, taps, args, ((2, size, size, 3),))


CONVNEXT = (1, 1, 2, 1), (8, 12, 16, 24)


def _convnext_timm(name):
  depths, dims = CONVNEXT

  def make(_):
    from timm.models import convnext

    return convnext.ConvNeXt(
      num_classes=7, depths=depths, dims=dims, conv_mlp=True
    )

  taps = {'stem': 'stem'}
  for i in range(1, 5):
    taps |= {f'stage{i}{pre}': f'stages.{i - 1}' for pre in ('', '_pre')}
  args = {'stage_sizes': depths, 'widths': dims}
  return Case(name, make, taps, args, LARGE)


def _convnext_torchvision(name):
  depths, dims = CONVNEXT

  def make(_):
    from torchvision.models import convnext

    pairs = zip(dims, (*dims[1:], None), depths, strict=True)
    return convnext.ConvNeXt(
      [convnext.CNBlockConfig(*row) for row in pairs], num_classes=7
    )

  taps = {'stem': 'features.0'}
  for i in range(1, 5):
    taps |= {f'stage{i}{pre}': f'features.{2 * i - 1}' for pre in ('', '_pre')}
  args = {'stage_sizes': depths, 'widths': dims}
  return Case(name, make, taps, args, LARGE)


def _swin(name):
  depths, heads = (2, 1, 2, 1), (1, 2, 4, 2)

  def make(_):
    from torchvision.models import swin_transformer

    return swin_transformer.SwinTransformer(
      [4, 4], 8, depths, heads, [4, 4], num_classes=7
    )

  taps = {'stem': 'last:features.0', 'stage4_post': 'last:norm'}
  for i in range(1, 5):
    place = f'last:features.{2 * i - 1}'
    taps |= {f'stage{i}{pre}': place for pre in ('', '_pre')}
  args = {'stage_sizes': depths, 'heads': heads, 'embedding': 8, 'window': 4}
  # Sides of 16, 8 and 4 tokens are whole windows, those of 18 and 14 are not;
  # of their third stage, 5 by 4, one axis alone is shifted.
  return Case(name, make, taps, args, LARGE)


V3_BLOCKS = (
  ((3, 8, 8, 1, 'relu', 1), (3, 24, 16, 0, 'relu', 2)),
  ((5, 40, 24, 1, 'hardswish', 2), (5, 48, 24, 1, 'hardswish', 1)),
)


def _mobile_v3(name):
  def make(_):
    from torchvision.models import mobilenetv3

    rows, channels = [], 8
    for kernel, inner, width, squeezed, act, stride in sum(V3_BLOCKS, ()):
      kind = {'relu': 'RE', 'hardswish': 'HS'}[act]
      rows.append(
        mobilenetv3.InvertedResidualConfig(
          channels, kernel, inner, width, bool(squeezed), kind, stride, 1, 1.0
        )
      )
      channels = width
    return mobilenetv3.MobileNetV3(rows, 20, num_classes=7)

  taps = _inverted_taps(
    ('features.2', 'features.4'), 'features.0', 'features.5'
  )
  args = {'blocks': V3_BLOCKS, 'stem_width': 8, 'last_width': 144, 'hidden': 20}
  return Case(name, make, taps, args, LARGE)


def _inverted_taps(stages, stem, post):
  taps = {'stem': stem, f'stage{len(stages)}_post': post}
  for i, place in enumerate(stages, 1):
    taps |= {f'stage{i}{pre}': place for pre in ('', '_pre')}
  return taps


# Expansion, channels, blocks, stride, kernel.
EFFICIENT = (((1, 8, 1, 1, 3), (4, 16, 2, 2, 3)), ((4, 24, 2, 2, 5),))


def _efficient_torchvision(name):
  def make(_):
    from torchvision.models import efficientnet

    rows, channels = [], 8
    for expansion, width, blocks, stride, kernel in sum(EFFICIENT, ()):
      rows.append(
        efficientnet.MBConvConfig(
          expansion, kernel, stride, channels, width, blocks
        )
      )
      channels = width
    return efficientnet.EfficientNet(rows, 0.2, num_classes=7)

  taps = _inverted_taps(
    ('features.2', 'features.3'), 'features.0', 'features.4'
  )
  args = {'stages': EFFICIENT, 'stem_width': 8, 'last_width': 96}
  return Case(name, make, taps, args, LARGE)


def _efficient_timm(name):
  def make(_):
    from timm.layers import get_act_layer
    from timm.models import _efficientnet_builder, efficientnet

    kinds = 'ds_r1_k3_s1_e1_c8_se0.25', 'ir_r2_k3_s2_e4_c16_se0.25'
    last = 'ir_r2_k5_s2_e4_c24_se0.25'
    rows = _efficientnet_builder.decode_arch_def(
      [[kinds[0]], [kinds[1]], [last]]
    )
    return efficientnet.EfficientNet(
      rows,
      num_classes=7,
      num_features=96,
      stem_size=8,
      fix_stem=True,
      act_layer=get_act_layer('silu'),
    )

  taps = _inverted_taps(('blocks.1', 'blocks.2'), 'bn1', 'bn2')
  args = {'stages': EFFICIENT, 'stem_width': 8, 'last_width': 96}
  return Case(name, make, taps, args, LARGE)


REGNET = {
  'stage_sizes': (1, 1, 1, 2),
  'widths': (8, 16, 24, 32),
  'group_width': 8,
  'stem_width': 16,
}
REGNET_RULE = {'depth': 5, 'w0': 8, 'wa': 8.0, 'wm': 1.6}  # gives those widths


def _regnet_torchvision(name):
  def make(_):
    from torchvision.models import regnet

    rule = {k.replace('w', 'w_'): x for k, x in REGNET_RULE.items()}
    params = regnet.BlockParams.from_init_params(
      **rule, group_width=8, se_ratio=0.25
    )
    return regnet.RegNet(params, num_classes=7, stem_width=16)

  taps = {'stem': 'stem'}
  for i, j in ((1, 0), (2, 0), (3, 0), (4, 1)):
    last = f'trunk_output.block{i}.block{i}-{j}'
    taps |= {f'stage{i}': last, f'stage{i}_pre': f'in:{last}.activation'}
  return Case(name, make, taps, REGNET, LARGE)


def _regnet_timm(name):
  def make(_):
    from timm.models import regnet

    cfg = regnet.RegNetCfg(
      **REGNET_RULE, group_size=8, se_ratio=0.25, stem_width=16
    )
    return regnet.RegNet(cfg, num_classes=7)

  taps = {'stem': 'stem'}
  for i, j in ((1, 1), (2, 1), (3, 1), (4, 2)):
    taps |= {f'stage{i}': f's{i}', f'stage{i}_pre': f'in:s{i}.b{j}.act3'}
  return Case(name, make, taps, REGNET, LARGE)


def _resnet_d_timm(name, block, sizes, **args):
  def make(_):
    from timm.models import resnet

    return resnet.ResNet(
      getattr(resnet, block),
      sizes,
      num_classes=7,
      stem_width=4,
      stem_type='deep',
      avg_down=True,
      channels=(8, 12, 12, 16),
    )

  act = 'act2' if block == 'BasicBlock' else 'act3'
  taps = _blocks([n - 1 for n in sizes], act, 'act1')
  args |= {'stage_sizes': sizes, 'widths': (8, 8, 12, 12, 16)}
  return Case(name, make, taps, args, LARGE)


def _once(case):
  """Returns the case with its last, odd shape only.

  It is for cases of a kind that another case covers with all shapes.
  """
  return dataclasses.replace(case, shapes=case.shapes[-1:])


# The cases that the tests read: every original, and every layout of names.
STORED = {
  'resnet8x4': _resnet('resnet8x4', 8, [32, 64, 128, 256]),
  'resnet14x2': _once(_resnet('resnet14x2', 14, [16, 32, 64, 128], 'SimKD')),
  'resnet18_cifar': _once(_resnet_v2('resnet18', 'BasicBlock', [2, 2, 2, 2])),
  'resnet50_cifar': _once(
    _resnet_v2('resnet50', 'Bottleneck', [1, 2, 1, 1], stage_sizes=[1, 2, 1, 1])
  ),
  'resnet18_torchvision': _once(
    _resnet_torchvision(
      'resnet18', 'BasicBlock', [2, 1, 1, 1], stage_sizes=[2, 1, 1, 1]
    )
  ),
  'resnet50_torchvision': _resnet_torchvision(
    'resnet50', 'Bottleneck', [1, 2, 1, 1], stage_sizes=[1, 2, 1, 1]
  ),
  'resnet18_timm': _once(
    _resnet_timm(
      'resnet18', 'BasicBlock', [2, 1, 1, 1], stage_sizes=[2, 1, 1, 1]
    )
  ),
  'resnet50_timm': _once(
    _resnet_timm(
      'resnet50', 'Bottleneck', [1, 2, 1, 1], stage_sizes=[1, 2, 1, 1]
    )
  ),
  'wrn_16_2': _wrn('wrn_16_2', 16, 2),
  'wrn_16_1': _once(_wrn('wrn_16_1', 16, 1)),
  'wrn_16_2_ofd': _once(_wrn('wrn_16_2', 16, 2, 'overhaul-distillation')),
  'wrn_16_2_ffsd': _wrn_ffsd('wrn_16_2_ffsd', 16, 2),
  'wrn_16_1_ffsd': _once(_wrn_ffsd('wrn_16_2_ffsd', 16, 1, widen=1)),
  'vgg8': _vgg('vgg8'),
  'vgg13': _once(_vgg('vgg13')),
  'vgg11_torchvision': _once(_vgg_torchvision('vgg11_imagenet', 'A', 16)),
  'mobilenetv1': _mobile_v1('mobilenetv1'),
  'mobilenetv2': _mobile_v2_cifar('mobilenetv2'),
  'mobilenetv2_torchvision': _mobile_v2_torchvision(
    'mobilenetv2_imagenet', 0.35, width=0.35
  ),
  'mobilenetv2_timm': _once(
    _mobile_v2_timm('mobilenetv2_imagenet', 'mobilenetv2_050', width=0.5)
  ),
  'shufflenetv1': _shuffle_v1(
    'shufflenetv1',
    {'out_planes': [240, 480, 960], 'num_blocks': [2, 3, 2], 'groups': 3},
    stage_sizes=[2, 3, 2],
  ),
  'shufflenetv2': _shuffle_v2(
    'shufflenetv2', 0.2, stage_sizes=[4, 4, 4], widths=[40, 80, 160, 512]
  ),
  'pyramidnet20': _pyramid('pyramidnet110', 20, 17, False, depth=20, alpha=17),
  'pyramidnet20_bottleneck': _pyramid(
    'pyramidnet200', 20, 17, True, depth=20, alpha=17
  ),
  'densenet13': _dense('densenet40_12', 13, depth=13),
  'googlenet': _once(_google('googlenet')),
  'vit_torchvision': _vit_torchvision('vit_tiny', 32, 8, 24, 4, 3),
  'vit_timm': _vit_timm('vit_tiny', 30, 5, 16, 3, 2, stages=3),
  'deit_timm': _vit_timm('deit_tiny', 24, 4, 24, 5, 3),
  'convnext_timm': _once(_convnext_timm('convnext_atto')),
  'convnext_torchvision': _convnext_torchvision('convnext_tiny'),
  'swin_torchvision': _swin('swin_tiny'),
  'mobilenetv3_torchvision': _mobile_v3('mobilenetv3_small'),
  'efficientnet_torchvision': _efficient_torchvision('efficientnet_b0'),
  'efficientnet_timm': _once(_efficient_timm('efficientnet_b0')),
  'regnety_torchvision': _regnet_torchvision('regnety_400mf'),
  'regnety_timm': _once(_regnet_timm('regnety_400mf')),
  'resnet18d_timm': _resnet_d_timm('resnet18d', 'BasicBlock', (1, 1, 1, 1)),
  'resnet50d_timm': _once(
    _resnet_d_timm('resnet50d', 'Bottleneck', (1, 1, 1, 1))
  ),
}

NARROW_FILTERS, WIDE_FILTERS = [16, 16, 32, 64], [32, 64, 128, 256]
MIDDLE_FILTERS = [16, 32, 64, 128]
SIZES = {
  18: ('BasicBlock', [2, 2, 2, 2]),
  34: ('BasicBlock', [3, 4, 6, 3]),
  50: ('Bottleneck', [3, 4, 6, 3]),
  101: ('Bottleneck', [3, 4, 23, 3]),
  152: ('Bottleneck', [3, 8, 36, 3]),
}
# Every network in full size.
FULL = {
  **{
    f'resnet{depth}': _resnet(f'resnet{depth}', depth, NARROW_FILTERS)
    for depth in (8, 14, 20, 32, 44, 56, 110)
  },
  'resnet8x4': _resnet('resnet8x4', 8, WIDE_FILTERS),
  'resnet32x4': _resnet('resnet32x4', 32, WIDE_FILTERS),
  'resnet38': _resnet('resnet38', 38, NARROW_FILTERS, 'SimKD'),
  'resnet14x2': _resnet('resnet14x2', 14, MIDDLE_FILTERS, 'SimKD'),
  'resnet38x2': _resnet('resnet38x2', 38, MIDDLE_FILTERS, 'SimKD'),
  'resnet38x4': _resnet('resnet38x4', 38, WIDE_FILTERS, 'SimKD'),
  **{
    f'resnet{depth}_cifar': _resnet_v2(f'resnet{depth}', *SIZES[depth])
    for depth in (18, 34, 50)
  },
  **{
    f'resnet{depth}_torchvision': _resnet_torchvision(
      f'resnet{depth}', *SIZES[depth]
    )
    for depth in SIZES
  },
  **{
    f'resnet{depth}_timm': _resnet_timm(f'resnet{depth}', *SIZES[depth])
    for depth in (18, 34, 50)
  },
  **{
    f'wrn_{depth}_{widen}': _wrn(f'wrn_{depth}_{widen}', depth, widen)
    for depth, widen in ((16, 1), (16, 2), (40, 1), (40, 2))
  },
  **{
    f'wrn_{depth}_{widen}': _wrn(
      f'wrn_{depth}_{widen}', depth, widen, 'overhaul-distillation'
    )
    for depth, widen in ((16, 4), (28, 2), (28, 4))
  },
  'wrn_16_2_ffsd': _wrn_ffsd('wrn_16_2_ffsd', 16, 2),
  'wrn_40_2_ffsd': _wrn_ffsd('wrn_40_2_ffsd', 40, 2),
  **{f'vgg{depth}': _vgg(f'vgg{depth}') for depth in (8, 11, 13, 16, 19)},
  **{
    f'vgg{depth}_torchvision': _vgg_torchvision(
      f'vgg{depth}_imagenet', variant, 0
    )
    for depth, variant in ((11, 'A'), (13, 'B'), (16, 'D'), (19, 'E'))
  },
  'mobilenetv1': _mobile_v1('mobilenetv1'),
  'mobilenetv2': _mobile_v2_cifar('mobilenetv2'),
  'mobilenetv2_torchvision': _mobile_v2_torchvision('mobilenetv2_imagenet'),
  'mobilenetv2_timm': _mobile_v2_timm(
    'mobilenetv2_imagenet', 'mobilenetv2_100'
  ),
  'shufflenetv1': _shuffle_v1('shufflenetv1'),
  'shufflenetv2': _shuffle_v2('shufflenetv2', 1),
  'shufflenetv2x1_5': _shuffle_v2('shufflenetv2x1_5', 1.5, 'SimKD'),
  'pyramidnet110': _pyramid('pyramidnet110', 110, 84, False),
  'pyramidnet200': _pyramid('pyramidnet200', 200, 240, True),
  'densenet40_12': _dense('densenet40_12'),
  'googlenet': _google('googlenet'),
}
