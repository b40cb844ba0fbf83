"""Compares exported PyTorch weights with the classes that they are for.

In an environment with kd_jax, then in one with torch, torchvision and timm:

  python benchmarks/torch_names.py make FOLDER
  python benchmarks/torch_names.py check FOLDER [CLONE]
  python benchmarks/torch_names.py score EXPORT torchvision:resnet18

`make` writes random weights, images and the logits of JAX; `check`
loads the weights strictly and compares the logits; CLONE is a clone of
https://github.com/HobbitLong/RepDistiller, without which its classes are passed
over. `score` counts the correct
images of an export that was written with --torch and --with_test_set.
"""

import importlib
import json
import pathlib
import sys

import numpy as np

# kd_jax's network, a part of the layout's name, and who makes the original.
CASES = (
  ('resnet18', 'torchvision', 'torchvision:resnet18'),
  ('resnet50', 'timm', 'timm:resnet50'),
  ('mobilenetv2_imagenet', 'torchvision', 'torchvision:mobilenet_v2'),
  ('mobilenetv2_imagenet', 'timm', 'timm:mobilenetv2_100'),
  ('vgg13_imagenet', 'torchvision', 'torchvision:vgg13_bn'),
  ('convnext_atto', 'timm', 'timm:convnext_atto'),
  ('convnext_tiny', 'timm', 'timm:convnext_tiny'),
  ('convnext_tiny', 'torchvision', 'torchvision:convnext_tiny'),
  ('swin_tiny', 'torchvision', 'torchvision:swin_t'),
  ('efficientnet_b0', 'timm', 'timm:efficientnet_b0'),
  ('efficientnet_b0', 'torchvision', 'torchvision:efficientnet_b0'),
  ('mobilenetv3_small', 'torchvision', 'torchvision:mobilenet_v3_small'),
  ('mobilenetv3_large', 'torchvision', 'torchvision:mobilenet_v3_large'),
  ('regnety_400mf', 'timm', 'timm:regnety_004'),
  ('regnety_400mf', 'torchvision', 'torchvision:regnet_y_400mf'),
  ('resnet20', 'RepDistiller', 'RepDistiller:resnet20'),
  ('resnet8x4', 'RepDistiller', 'RepDistiller:resnet8x4'),
  ('wrn_16_2', 'RepDistiller', 'RepDistiller:wrn_16_2'),
  ('vgg8', 'RepDistiller', 'RepDistiller:vgg8'),
  ('vgg13', 'RepDistiller', 'RepDistiller:vgg13'),
  ('mobilenetv2', 'RepDistiller', 'RepDistiller:MobileNetV2'),
  ('shufflenetv1', 'RepDistiller', 'RepDistiller:ShuffleV1'),
  ('shufflenetv2', 'RepDistiller', 'RepDistiller:ShuffleV2'),
)
CLASSES = 10


def make(folder: pathlib.Path) -> None:
  """Writes a folder of weights, images and logits for every case."""
  from flax import traverse_util
  import jax
  from safetensors import numpy as safetensors

  from kd_jax import models
  from kd_jax.models.pretrained import convert

  rng = np.random.default_rng(0)
  folder.mkdir(parents=True)
  for i, (name, layout, _) in enumerate(CASES):
    network = models.make(name, CLASSES)
    flat = traverse_util.flatten_dict(convert.shapes(network))
    variables = {path: filled(path, x.shape, rng) for path, x in flat.items()}
    state, _ = convert.state_dict(network, variables, layout)
    safetensors.save_file(state, folder / f'{i}.safetensors')
    size = 32 if layout == 'RepDistiller' else 64
    images = rng.normal(size=(4, size, size, 3)).astype(np.float32)
    apply = jax.jit(lambda v, x, of=network: of.apply(v, x, train=False))
    logits = apply(traverse_util.unflatten_dict(variables), images)
    np.savez(folder / f'{i}.npz', images=images, logits=np.asarray(logits))


def filled(path, shape, rng):
  """Returns random values for a variable, which keep a network's scale."""
  if path[-1] == 'kernel':
    value = rng.normal(size=shape) * (2 / np.prod(shape[:-1])) ** 0.5
  elif path[-1] in ('scale', 'var'):
    value = rng.uniform(0.5, 1.5, shape)
  else:
    value = 0.2 * rng.normal(size=shape)
  return value.astype(np.float32)


def original(where: str, classes: int):
  """Returns the network of another library, such as 'timm:resnet50'."""
  library, name = where.split(':')
  if library == 'timm':
    return importlib.import_module('timm').create_model(
      name, num_classes=classes
    )
  if library == 'RepDistiller':
    known = importlib.import_module('models').model_dict
    return known[name](num_classes=classes)
  module = importlib.import_module('torchvision.models')
  return getattr(module, name)(num_classes=classes)


def logits_of(network, weights: pathlib.Path, images: np.ndarray):
  """Returns the logits [N,K] f32 of images [N,H,W,3] f32 by PyTorch."""
  from safetensors.torch import load_file
  import torch

  network.load_state_dict(load_file(weights))  # strict
  network.eval()
  with torch.no_grad():
    return network(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()


def check(folder: pathlib.Path, clone: str = '') -> None:
  """Prints how far the logits of PyTorch and JAX are apart."""
  sys.path.insert(0, clone)
  for i, (_, _, where) in enumerate(CASES):
    if where.startswith('RepDistiller') and not clone:
      continue
    with np.load(folder / f'{i}.npz') as file:
      images, want = file['images'], file['logits']
    network = original(where, CLASSES)
    logits = logits_of(network, folder / f'{i}.safetensors', images)
    far = np.abs(logits - want).max() / np.abs(want).max()
    print(f'{where:30} {far:.2g} of the largest logit')


def score(folder: pathlib.Path, where: str) -> None:
  """Prints how many images of an export's test split PyTorch gets right."""
  facts = json.loads((folder / 'network.json').read_text())
  with np.load(folder / 'test.npz') as file:
    images, labels = file['image'], file['label']
  scaled = images.astype(np.float32) / 255
  scaled = (scaled - np.float32(facts['mean'])) / np.float32(facts['std'])
  network = original(where, len(facts['class_names']))
  logits = logits_of(network, folder / 'student.torch.safetensors', scaled)
  right = (logits.argmax(axis=-1) == labels).sum()
  print(f'{where}: {right} of {len(labels)} correct')


if __name__ == '__main__':
  verb, place, *more = sys.argv[1:]
  {'make': make, 'check': check, 'score': score}[verb](
    pathlib.Path(place), *more
  )
