"""Parts of a network's parameters that methods read."""

from typing import Any

import jax
import jax.numpy as jnp

from kd_jax import errors

# The last BatchNorm of each part of a DeepLab's head.
_HEADS = {'aspp': 'bn_last', 'decoder': 'bn2'}


def last_bn(
  params: dict[str, Any], stage: int | str
) -> tuple[jax.Array, jax.Array]:
  """Returns the parameters of the BatchNorm that yields 'stage{stage}_pre'.

  Where blocks end with a BatchNorm, it is the last of the stage's last block,
  and the shortcut's contribution to the map is ignored. Where blocks begin with
  a BatchNorm, as in WideResNet and PyramidNet, it is in the next stage's first
  block, or the network's last BatchNorm. Where a DeepLab taps what the next
  stage's first block expands a stage to, as of MobileNetV2, it is that block's
  first.

  Args:
    params: The parameters of a network for which OFD is defined.
    stage: The stage, counted from 1; of a DeepLab also 'aspp' or 'decoder', for
      'aspp_pre' or 'decoder_pre'.

  Returns:
    The scale and the bias, each [C].

  Raises:
    UsageError: The network has no such BatchNorm.

  Source: `get_bn_before_relu` of overhaul-distillation 76344a8 (also its
  Segmentation) and of RepDistiller b84f547.
  """
  if isinstance(stage, str):
    if stage not in params:
      raise errors.UsageError(
        f'the teacher has no {stage} whose BatchNorm gives a margin; take a '
        'DeepLab, or stages by their numbers'
      )
    norm = params[stage][_HEADS[stage]]
    return norm['scale'], norm['bias']
  within_deeplab = 'backbone' in params
  params = params.get('backbone', params)
  blocks = _blocks(params, stage)
  if not blocks or not _norms(blocks[-1]):
    raise errors.UsageError(
      f'the teacher has no blocks of stage {stage} whose BatchNorm gives a '
      'margin; take a ResNet, WideResNet, PyramidNet, VGG or MobileNet, or '
      'fewer stages'
    )
  following = _blocks(params, stage + 1)
  if within_deeplab and following and _is_inverted(following[0]):
    norm = following[0]['bn1']
  elif 'bn_last' not in params:
    norm = _norms(blocks[-1])[-1]
  elif following:
    # PyramidNet's bottleneck has no ReLU before its first convolution.
    norm = _norms(following[0])[1 if 'bn4' in following[0] else 0]
  else:
    norm = params['bn_last']
  return norm['scale'], norm['bias']


def _blocks(params: dict[str, Any], stage: int) -> list[dict[str, Any]]:
  prefix = f'stage{stage}_block'
  names = [name for name in params if name.startswith(prefix)]
  names.sort(key=lambda name: int(name.removeprefix(prefix)))
  return [params[name] for name in names]


def _is_inverted(block: dict[str, Any]) -> bool:
  """Returns whether a block's second convolution is depthwise."""
  return block['conv2']['kernel'].shape[2] == 1


def _norms(block: dict[str, Any]) -> list[dict[str, Any]]:
  return [block[name] for name in sorted(block) if name.startswith('bn')]


def head(params: dict[str, Any], pooled: jax.Array) -> jax.Array:
  """Returns the logits [N,K] f32 of a network's classifier alone.

  Args:
    params: The parameters of a network whose last layer is called 'fc'.
    pooled: The input of that layer, [N,C].

  Raises:
    UsageError: The network has no such layer, the layer reads another number of
      channels, or a LayerNorm stands between the pooling and the layer.
  """
  if 'fc' not in params:
    raise errors.UsageError(
      "the teacher has no layer 'fc' whose weights the student could reuse "
      f'(it has {", ".join(sorted(params))})'
    )
  if 'ln_last' in params:
    raise errors.UsageError(
      "the teacher normalises what its layer 'fc' reads (ViT, ConvNeXt), so "
      'that the student cannot reuse that layer alone; take another teacher or '
      'method'
    )
  kernel, bias = params['fc']['kernel'], params['fc']['bias']
  if kernel.shape[0] != pooled.shape[-1]:
    raise errors.UsageError(
      f"the teacher's classifier reads {kernel.shape[0]} channels, its tap has "
      f'{pooled.shape[-1]}: name the map that is pooled '
      "(taps; 'stage3_post' and the like)"
    )
  return pooled.astype(jnp.float32) @ kernel + bias[None, :]
