"""Stores what the original networks compute, with weights made from names.

It needs torch, torchvision, timm and checkouts of the originals:

  python -m tests.vectors.make_networks --originals=FOLDER [--full] OUT

FOLDER holds RepDistiller (b84f547), SimKD (2b389c3), FFSD (d5cfda9) and
overhaul-distillation (76344a8). OUT/<case>.npz holds, for each tap of a
network, a sample of the entries and the norm. The weights are not stored, as
`generated` computes them from their names and shapes. By default it makes the
cases that the tests read (tests/vectors/networks); with --full it makes every
network in full size, for the table that tests/vectors/compare_networks.py
prints.
"""

import argparse
import contextlib
import importlib.util
import json
import pathlib
import sys
import zlib

import numpy as np

from tests.vectors import network_cases

SAMPLE = 192  # entries that are stored per tap


def generated(name, shape):
  """Returns the entry of a state dict, computed from its name and shape."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  if name.endswith('running_var'):
    value = rng.uniform(0.5, 1.5, shape)
  elif len(shape) > 1:
    value = rng.normal(size=shape) * (2 / np.prod(shape[1:])) ** 0.5
  elif name.endswith('.weight'):
    value = rng.uniform(0.5, 1.5, shape)
  else:
    value = 0.2 * rng.normal(size=shape)
  return value.astype(np.float32)


def images(shape):
  """Returns random images [N,H,W,3] f32."""
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def sample(value):
  """Returns the stored entries of a tap [N,...,C], and its norm."""
  flat = np.asarray(value, np.float32).ravel()
  rng = np.random.default_rng(flat.size)
  index = rng.choice(flat.size, min(SAMPLE, flat.size), replace=False)
  return flat[np.sort(index)], np.linalg.norm(flat.astype(np.float64))


class Originals:
  """Loads a file of a checkout as a module."""

  def __init__(self, folder):
    self.folder = pathlib.Path(folder)

  def __call__(self, repository, path):
    root = self.folder / repository
    sys.path.insert(0, str(root))
    try:
      spec = importlib.util.spec_from_file_location('original', root / path)
      module = importlib.util.module_from_spec(spec)
      spec.loader.exec_module(module)
      return module
    finally:
      sys.path.remove(str(root))
      for name in [n for n in sys.modules if n.split('.')[0] == 'models']:
        del sys.modules[name]


@contextlib.contextmanager
def whole_map_pooled():
  """Replaces the fixed pooling window before the classifier by the whole map.

  The networks then accept images of other sizes. They have no other windows of
  4 or more.
  """
  from torch.nn import functional

  original = functional.avg_pool2d

  def pool(x, window, *args, **kwargs):
    if isinstance(window, int) and window >= 4:
      return x.mean((2, 3), keepdim=True)
    return original(x, window, *args, **kwargs)

  functional.avg_pool2d = pool
  try:
    yield
  finally:
    functional.avg_pool2d = original


def record(network, taps, image):
  """Returns the taps and the logits of one batch.

  A place is the name of a module, for its output. The suffixes ':0' and ':1'
  select from a pair of outputs, the prefix 'in:' means the module's input, and
  the prefix 'relu:' the ReLU of its output. The prefix 'last:' means an output
  [N,H,W,C], whose channels are last. The prefixes 'map0:', 'map1:' and 'map2:'
  mean a transformer's output [N,T,C] without its first 0, 1 or 2 tokens, as a
  map, and 'token0:' and 'token1:' a single token. A list of places is joined
  along the channels. If a module is called several times, the last call counts.

  Args:
    network: The original network.
    taps: The place of each tap, by the tap's name.
    image: The batch, [N,C,H,W] f32.
  """
  import torch

  seen = {}

  def keep(name):
    def hook(_, inputs, output):
      seen['in:' + name] = inputs[0]
      outputs = output if isinstance(output, tuple) else (output,)
      for i, part in enumerate(outputs):
        if part is not None:
          seen[f'{name}:{i}'] = part.clone()
      seen[name] = seen['relu:' + name] = seen[f'{name}:0']

    return hook

  def keep_input(name):
    # Copied before the call, which may overwrite its input in place.
    def hook(_, inputs):
      seen['before:' + name] = inputs[0].clone()

    return hook

  handles = []
  for name, module in network.named_modules():
    handles += [
      module.register_forward_hook(keep(name)),
      module.register_forward_pre_hook(keep_input(name)),
    ]
  with torch.no_grad(), whole_map_pooled():
    logits = network(image)
  for handle in handles:
    handle.remove()

  def at(place):
    if isinstance(place, list):
      return torch.cat([at(part) for part in place], 1)
    kind, _, name = place.rpartition(':')
    if kind == 'in':
      return seen['before:' + name]
    if kind == 'last':
      return seen[name].movedim(-1, 1)
    if kind.startswith('map'):
      tokens = seen[name][:, int(kind[3:]) :].swapaxes(1, 2)
      side = round(tokens.shape[2] ** 0.5)
      return tokens.reshape(*tokens.shape[:2], side, side)
    if kind.startswith('token'):
      return seen[name][:, int(kind[5:])]
    tapped = seen[place]
    return tapped.relu() if place.startswith('relu:') else tapped

  linear_names = [
    n for n, m in network.named_modules() if isinstance(m, torch.nn.Linear)
  ]
  taps = {'pooled': f'in:{linear_names[-1]}', **taps}
  tapped = {name: at(place) for name, place in taps.items()}
  tapped['pooled'] = tapped['pooled'].flatten(1)
  return {**tapped, 'logits': logits}


def described(name, value):
  """Returns the name and shape of an entry of a state dict.

  What cannot be made from them, whole numbers of one axis or more, follows.
  """
  entry = [name, list(value.shape)]
  whole = value.ndim and not value.is_floating_point()
  return [*entry, value.tolist()] if whole else entry


def vectors(case, load):
  """Returns the arrays of the file of a case.

  Args:
    case: The `network_cases.Case`.
    load: The `Originals`.
  """
  import torch

  network = case.make(load).eval()
  if isinstance(getattr(network, 'avgpool', None), torch.nn.AvgPool2d):
    network.avgpool = torch.nn.AdaptiveAvgPool2d(1)
  state = network.state_dict()
  network.load_state_dict(
    {
      name: torch.tensor(generated(name, tuple(value.shape)))
      if value.is_floating_point()
      else value
      for name, value in state.items()
    }
  )
  arrays = {}
  for shape in case.shapes:
    image = torch.tensor(images(shape)).permute(0, 3, 1, 2)
    for tap, value in record(network, case.taps, image).items():
      value = value.numpy()
      key = f'{"x".join(map(str, shape))}/{tap}'
      arrays[key], norm = sample(np.moveaxis(value, 1, -1))
      arrays[key + '/norm'] = norm
      arrays[key + '/shape'] = np.moveaxis(value, 1, -1).shape
  meta = {
    'network': case.network,
    'args': case.args,
    'num_classes': case.num_classes,
    'shapes': case.shapes,
    'params': sum(p.numel() for p in network.parameters()),
    'state': [described(name, value) for name, value in state.items()],
  }
  return {**arrays, 'meta': np.array(json.dumps(meta))}


def main():
  """Writes the files."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--originals', required=True)
  parser.add_argument('--full', action='store_true')
  parser.add_argument('--only', nargs='*')
  parser.add_argument('out', type=pathlib.Path)
  args = parser.parse_args()
  args.out.mkdir(parents=True, exist_ok=True)
  cases = network_cases.FULL if args.full else network_cases.STORED
  for name, case in cases.items():
    if args.only and name not in args.only:
      continue
    arrays = vectors(case, Originals(args.originals))
    np.savez_compressed(args.out / f'{name}.npz', **arrays)
    print(name, flush=True)


if __name__ == '__main__':
  main()
