"""Small archives in the published formats, of random pixels."""

import io
import pickle
import tarfile
import zipfile

import numpy as np
from PIL import Image

from kd_jax.runtime import downloads


def cifar(path, classes, per_class=3, seed=0, pickled=False):
  """Writes a CIFAR archive in the binary .tar.gz format, or in Python's.

  Args:
    path: The file to write.
    classes: 10 or 100, for CIFAR-10 or CIFAR-100.
    per_class: The images per class and file.
    seed: The random seed.
    pickled: Whether to write the archive for Python.

  Returns:
    The images [N,32,32,3] u8 and labels [N] i64 of 'train' and of 'test'.
  """
  rng = np.random.default_rng(seed)
  is_cifar100 = classes == 100
  parts = (
    ('train',) if is_cifar100 else tuple(f'data_batch_{i}' for i in range(1, 6))
  )
  batches, files = {'train': [], 'test': []}, {}
  for name in (*parts, 'test' if is_cifar100 else 'test_batch'):
    label = rng.permutation(np.repeat(np.arange(classes), per_class))
    image = rng.integers(0, 256, (len(label), 32, 32, 3)).astype(np.uint8)
    rows = [label.astype(np.uint8)[:, None]]
    if is_cifar100:
      rows.insert(0, (label // 5).astype(np.uint8)[:, None])
    rows.append(image.transpose(0, 3, 1, 2).reshape(len(label), -1))
    if pickled:
      key = b'fine_labels' if is_cifar100 else b'labels'
      batch = {b'data': rows[-1], key: label.tolist(), b'batch_label': name}
      files[name] = pickle.dumps(batch, 2)
    else:
      files[f'{name}.bin'] = np.concatenate(rows, axis=1).tobytes()
    batches['test' if 'test' in name else 'train'].append((image, label))
  names = '\n'.join(f'class{i:03d}' for i in range(classes)) + '\n\n'
  names_file = 'fine_label_names.txt' if is_cifar100 else 'batches.meta.txt'
  folder = 'cifar-100-binary' if is_cifar100 else 'cifar-10-batches-bin'
  if pickled:
    key = b'fine_label_names' if is_cifar100 else b'label_names'
    meta = pickle.dumps({key: names.encode().split()}, 2)
    files['meta' if is_cifar100 else 'batches.meta'] = meta
    folder = 'cifar-100-python' if is_cifar100 else 'cifar-10-batches-py'
  with tarfile.open(path, 'w:gz') as tar:
    text = {} if pickled else {names_file: names.encode()}
    for name, content in {**files, **text}.items():
      member = tarfile.TarInfo(f'{folder}/{name}')
      member.size = len(content)
      tar.addfile(member, io.BytesIO(content))
  return {
    split: tuple(
      np.concatenate(arrays) for arrays in zip(*split_batches, strict=True)
    )
    for split, split_batches in batches.items()
  }


def jpeg(rng, size=64, grey=False):
  """Returns a random JPEG file; with `grey` it has one channel.

  Some files of ImageNet have one channel.
  """
  shape = (size, size) if grey else (size, size, 3)
  file = io.BytesIO()
  pixels = rng.integers(0, 256, shape).astype(np.uint8)
  Image.fromarray(pixels).save(file, 'JPEG')
  return file.getvalue()


def tiny_imagenet(path, per_class=2, seed=0):
  """Writes tiny-imagenet-200.zip.

  Args:
    path: The file to write.
    per_class: The training images per class.
    seed: The random seed.

  Returns:
    The class ids in their order, and the JPEG files by member name.
  """
  rng = np.random.default_rng(seed)
  wnids = [f'n{i:08d}' for i in rng.permutation(200)]
  root, files, lines = 'tiny-imagenet-200', {}, []
  for i, wnid in enumerate(wnids):
    for j in range(per_class):
      name = f'{root}/train/{wnid}/images/{wnid}_{j}.JPEG'
      files[name] = jpeg(rng, grey=i % 9 == 0)
    files[f'{root}/val/images/val_{i}.JPEG'] = jpeg(rng)
    lines.append(f'val_{i}.JPEG\t{wnid}\t0\t0\t62\t62')
  with zipfile.ZipFile(path, 'w') as file:
    file.writestr(f'{root}/wnids.txt', '\n'.join(wnids))
    file.writestr(f'{root}/val/val_annotations.txt', '\n'.join(lines))
    for name, content in files.items():
      file.writestr(name, content)
  return wnids, files


def published(path, url='http://localhost:9/none.tar.gz'):
  """Returns the description of a local archive as if published at `url`."""
  import hashlib

  content = path.read_bytes()
  checksum = hashlib.sha256(content).hexdigest()
  return downloads.Published(url, 'sha256', checksum, len(content))
