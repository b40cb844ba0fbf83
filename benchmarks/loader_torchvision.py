"""Measures ImageNet's batches by torchvision's transforms in a DataLoader.

It runs in its own process, and kd_jax never imports it; see `turns.py`.
Variants:

  pillow   ImageFolder, RandomResizedCrop, flip, ToTensor, Normalize, as in
           PyTorch's own ImageNet example; batches are f32
  tensor   the same crops and flips by transforms.v2, on what decode_jpeg
           (libjpeg-turbo) returns; batches are uint8, for the device to
           normalise

With ' randaugment' behind its name a variant has transforms.RandAugment, with
its defaults, behind the flip.
"""

from collections.abc import Iterator
import itertools
from typing import Any

import turns


def _pillow(size: int, policy: str) -> dict[str, Any]:
  """Returns ImageFolder's arguments for crops [3,size,size] f32."""
  from torchvision import transforms

  steps = [
    transforms.RandomResizedCrop(size),
    transforms.RandomHorizontalFlip(),
    *([transforms.RandAugment()] if policy else []),
    transforms.ToTensor(),
    transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
  ]
  return {'transform': transforms.Compose(steps)}


def _tensor(size: int, policy: str) -> dict[str, Any]:
  """Returns ImageFolder's arguments for crops [3,size,size] u8.

  Raises:
    ImportError: torchvision's image extension does not load.
  """
  import torch
  from torchvision import io
  from torchvision.transforms import v2

  try:
    io.encode_jpeg(torch.zeros((3, 8, 8), dtype=torch.uint8))
  except RuntimeError as error:
    raise ImportError('its image extension does not load here') from error
  steps = [
    v2.RandomResizedCrop(size, antialias=True),
    v2.RandomHorizontalFlip(),
    *([v2.RandAugment()] if policy else []),
  ]
  rgb = io.ImageReadMode.RGB
  return {
    'loader': lambda path: io.decode_jpeg(io.read_file(path), rgb),
    'transform': v2.Compose(steps),
  }


def make(given: dict[str, Any]) -> tuple[Iterator[Any], str]:
  """Returns the batches, reshuffled each epoch, and the versions used."""
  import torch
  import torchvision

  torch.set_num_threads(1)  # as DataLoader sets it in each worker
  variant, _, policy = given['variant'].partition(' ')
  arguments = {'pillow': _pillow, 'tensor': _tensor}[variant]
  images = torchvision.datasets.ImageFolder(
    given['folder'], **arguments(given['size'], policy)
  )
  workers = given['workers']
  loader = torch.utils.data.DataLoader(
    images,
    batch_size=given['batch'],
    shuffle=True,
    drop_last=True,
    num_workers=workers,
    persistent_workers=workers > 0,
  )
  versions = f'torch {torch.__version__}, torchvision {torchvision.__version__}'
  return itertools.chain.from_iterable(itertools.repeat(loader)), versions


if __name__ == '__main__':
  turns.main(make)
