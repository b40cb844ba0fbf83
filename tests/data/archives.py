"""Small archives in the published formats, of random pixels."""

import gzip
import io
import pickle
import tarfile
import zipfile

import numpy as np
from PIL import Image
import scipy.io

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


def tar(files):
  """Returns a tar of files by name, as bytes."""
  packed = io.BytesIO()
  with tarfile.open(fileobj=packed, mode='w') as made:
    for name, content in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(content)
      made.addfile(member, io.BytesIO(content))
  return packed.getvalue()


def imagenet(folder, classes=3, per_class=4, validation=6, seed=0):
  """Writes ILSVRC 2012's archives, with small images and few classes.

  As in the original a training image is a PNG and another in CMYK, and the
  development kit's ids are not in the order of the wnids.

  Args:
    folder: The folder to write to.
    classes: The number of classes.
    per_class: The training images per class.
    validation: The number of validation images.
    seed: The random seed.

  Returns:
    The wnids in order; and for 'train' and 'validation' a dict of the wnid and
    the file of each image by name.
  """
  rng = np.random.default_rng(seed)
  wnids = [f'n{i:08d}' for i in range(11, 11 + classes)]
  train, tars = {}, {}
  for wnid in wnids[::-1]:
    images = {f'{wnid}_{j}.JPEG': jpeg(rng, 16) for j in range(per_class)}
    if wnid == wnids[1]:
      pixels = rng.integers(0, 256, (16, 16, 4)).astype(np.uint8)
      for j, (mode, kind) in enumerate((('RGB', 'PNG'), ('CMYK', 'JPEG'))):
        file = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(file, kind)
        images[f'{wnid}_{j}.JPEG'] = file.getvalue()
    train |= {name: (wnid, content) for name, content in images.items()}
    tars[f'{wnid}.tar'] = tar(images)
  (folder / 'ILSVRC2012_img_train.tar').write_bytes(tar(tars))
  ids = np.roll(np.arange(classes), 1)  # of the wnids, from 0
  names = [f'ILSVRC2012_val_{i + 1:08d}.JPEG' for i in range(validation)]
  labels = rng.integers(0, classes, validation)
  held_out = {
    name: (wnids[label], jpeg(rng, 16, grey=label == 0))
    for name, label in zip(names, labels, strict=True)
  }
  mixed = rng.permutation(names)
  (folder / 'ILSVRC2012_img_val.tar').write_bytes(
    tar({name: held_out[name][1] for name in mixed})
  )
  meta = np.zeros((classes, 1), [('ILSVRC2012_ID', object), ('WNID', object)])
  for number, of in enumerate(ids):
    meta[number, 0] = (float(number + 1), wnids[of])
  file = io.BytesIO()
  scipy.io.savemat(file, {'synsets': meta})
  number = {of: i + 1 for i, of in enumerate(ids)}
  truth = ''.join(f'{number[label]}\n' for label in labels).encode()
  kit = {
    'ILSVRC2012_devkit_t12/data/meta.mat': file.getvalue(),
    'ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt': truth,
  }
  (folder / 'ILSVRC2012_devkit_t12.tar.gz').write_bytes(gzip.compress(tar(kit)))
  return wnids, {'train': train, 'validation': held_out}
