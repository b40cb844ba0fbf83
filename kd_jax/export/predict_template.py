"""Predicts classes with the network in this folder: python predict.py FILES...

Needs jax, numpy, safetensors and flatbuffers. FILES are .npy ([N,H,W,3] u8,
RGB), .npz (with such an array 'image'; if it has a 'label' too, the correct
predictions are counted) and, with Pillow, image files of any size.
"""

import contextlib
import json
import os
import pathlib
import sys

import jax.export
import numpy as np
from safetensors import numpy as safetensors


def load(folder):
  """Returns the facts of network.json and the forward pass of an export.

  The latter is a function from images [N,H,W,3] u8 to logits [N,K] f32.
  """
  facts = json.loads((folder / 'network.json').read_text())
  program = (folder / 'forward.jax_export').read_bytes()
  arrays = safetensors.load_file(folder / 'weights.safetensors')
  try:
    weights = jax.device_put(arrays)
  except (AssertionError, RuntimeError) as error:
    wanted = jax.config.values['jax_platforms']
    raise ValueError(
      f'JAX_PLATFORMS={wanted}: JAX cannot use such a device here; unset it'
    ) from error
  forward = jax.jit(compiled(program, weights, facts))
  return facts, lambda images: np.asarray(forward(weights, images))


def compiled(program, weights, facts):
  """Returns the function of a serialized program.

  Args:
    program: The content of forward.jax_export.
    weights: The weights by path, or their shapes and dtypes.
    facts: The content of network.json.

  Raises:
    ValueError: This version of JAX cannot read the program.
  """
  image = jax.ShapeDtypeStruct((1, *2 * (facts['image_size'],), 3), np.uint8)
  try:
    with quiet():  # MLIR prints the error that is reported below
      forward = jax.export.deserialize(bytearray(program)).call
      jax.jit(forward).lower(weights, image)
  except (RuntimeError, ValueError) as error:
    export_version, version = facts['jax'], jax.__version__
    why = str(error).strip().partition('\n')[0] or type(error).__name__
    if export_version == version:
      raise ValueError(f'this network cannot be used here: {why}') from error
    raise ValueError(
      f'this network was exported with jax {export_version}, and jax {version} '
      f"cannot read it ({why}): pip install 'jax=={export_version}', or export "
      f'the run again with jax {version}'
    ) from error
  return forward


@contextlib.contextmanager
def quiet():
  """Silences stderr, for libraries in C++ too."""
  try:
    stderr = os.dup(2)
  except OSError:  # stderr is closed
    yield
    return
  with open(os.devnull, 'w') as null:
    os.dup2(null.fileno(), 2)
  try:
    yield
  finally:
    os.dup2(stderr, 2)
    os.close(stderr)


def shown(text):
  """Returns a text as one line, with what is invisible escaped."""
  seen = {c: c.isprintable() or c in '\xa0\u202f\u3000' for c in str(text)}
  return ''.join(c if seen[c] else ascii(c)[1:-1] for c in str(text))


def rgb(image):
  """Returns a Pillow image as [h,w,3] u8; 16-bit grey is rounded to 8 bits."""
  kind, tags = f'{image.format} {image.mode}', getattr(image, 'tag_v2', {})
  is_deep, top = image.mode == 'F' or image.mode[0] == 'I', 65535
  known = kind in ('PNG I', 'PPM I', 'PNG I;16', 'JPEG2000 I;16') or not is_deep
  if is_deep and image.format == 'TIFF':
    top = 2 ** tags.get(258, (16,))[0] - 1
    known = image.mode[1:] in (';16', ';16B') and tags.get(262) == 1
  if not known or not {1, 4}.issuperset(tags.get(339, (1,))):  # or signed
    raise ValueError(f'pixels ({kind}) have no known range; convert the image')
  if is_deep:
    levels = np.asarray(image).astype(np.uint32)
    grey = ((510 * levels + top) // (2 * top)).clip(0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)
  if 'transparency' in image.info and image.mode == 'P':
    image = image.convert('RGBA')  # without which Pillow warns
  return np.asarray(image.convert('RGB'))


def read(path, size):
  """Returns a file's images [N,size,size,3] u8, and labels [N] or None."""
  if path.suffix.lower() == '.npy':
    return np.load(path), None
  if path.suffix.lower() == '.npz':
    return (arrays := np.load(path))['image'], arrays.get('label')
  try:
    from PIL import Image
  except ImportError as error:
    raise ValueError(f'{path}: pip install pillow, or give .npy') from error
  try:
    with Image.open(path) as file:
      image = Image.fromarray(rgb(file))
  except Exception as error:  # what a damaged file makes Pillow raise is open
    raise ValueError(f'{path}: {str(error) or type(error).__name__}') from error
  # The shorter side is scaled to 8/7 of `size`, then the centre is cropped.
  if image.size != (size, size):
    scale = size * 8 / 7 / min(image.size)
    w, h = (max(size, round(side * scale)) for side in image.size)
    x, y = (w - size) // 2, (h - size) // 2
    image = image.resize((w, h), Image.Resampling.BILINEAR)
    image = image.crop((x, y, x + size, y + size))
  return np.asarray(image)[None], None


if __name__ == '__main__':
  try:
    facts, forward = load(pathlib.Path(__file__).parent)
    for path in map(pathlib.Path, sys.argv[1:] or sys.exit(__doc__)):
      images, labels = read(path, facts['image_size'])
      parts = [forward(images[i : i + 256]) for i in range(0, len(images), 256)]
      chosen = np.concatenate(parts).argmax(axis=-1)  # the first, if some tie
      if labels is None:
        names = map(shown, (facts['class_names'][k] for k in chosen))
        print(*(f'{shown(path)}\t{name}' for name in names), sep='\n')
      else:
        count = (chosen == labels).sum()
        print(f'{shown(path)}: {count} of {len(labels)} correct')
  except (KeyError, OSError, ValueError) as error:
    print(f'predict.py: {shown(error)}', file=sys.stderr)
    sys.exit(2)
