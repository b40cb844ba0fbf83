"""Predicts classes with the network in this folder: python predict.py FILES...

Needs jax, numpy, safetensors and flatbuffers. FILES are .npy ([N,H,W,3] u8,
RGB), .npz (with such an array 'image'; if it has a 'label' too, the correct
predictions are counted) and, with Pillow, image files of any size. A network
that labels pixels writes the classes to NAME.classes.png, with the image's
sides, or of arrays to NAME.classes.npy, in the current folder. Of a network
that finds objects a line of JSON is printed for each: the file, the number of
the image in it, the class, the score and the box in pixels of the image.
"""

import contextlib
import json
import math
import os
import pathlib
import sys

import jax.export
import jax.interpreters.mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo
import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

# The custom calls of an export's program, and why. Any other could call code of
# this machine with arguments, such as addresses, that the file chooses.
CALLS = {'shape_assertion': 'with it JAX refuses a batch of 0 images'}
# These operations would exchange data with the host.
_HOST = ('infeed', 'outfeed', 'recv', 'send')
# What a network that finds objects returns of an image: the strongest, each the
# class (-1 pads), score and box (x1, y1, x2, y2) in fractions of the image.
DETECTIONS = (200, 6)


def load(folder):
  """Returns the facts of network.json and the forward pass of an export.

  The latter is a function from images [N,H,W,3] u8 to logits [N,K] f32, or
  [N,H,W,K] of a network that labels pixels, or `DETECTIONS`.
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
    ValueError: The program is not a forward pass of these weights, or this
      version of JAX cannot read it.
  """
  image = jax.ShapeDtypeStruct((1, *2 * (facts['image_size'],), 3), np.uint8)
  try:
    with quiet():  # MLIR prints the error that is reported below
      exported = jax.export.deserialize(bytearray(program))
      if not exported.nr_devices:  # as an older jax misreads a newer program
        raise ValueError('it is read as a program for no device')
      refused = refusal(exported, weights, facts)
      if not refused:
        jax.jit(exported.call).lower(weights, image)
  except Exception as error:  # what a damaged file makes JAX raise is open
    export_version, version = facts['jax'], jax.__version__
    why = str(error).strip().partition('\n')[0] or type(error).__name__
    if export_version == version:
      raise ValueError(f'this network cannot be used here: {why}') from error
    raise ValueError(
      f'this network was exported with jax {export_version}, and jax {version} '
      f"cannot read it ({why}): pip install 'jax=={export_version}', or export "
      f'the run again with jax {version}'
    ) from error
  if refused:
    raise ValueError(f'forward.jax_export {refused}: it is not run')
  return exported.call


def refusal(exported, weights, facts):
  """Returns why a program must not run, or '': it is compared with the facts.

  That it ends, and how much memory it takes, cannot be seen from outside.
  """
  if exported.ordered_effects or exported.unordered_effects:
    return 'has side effects'
  if exported.nr_devices != 1 or exported.disabled_safety_checks:
    return 'is for several devices, or was exported without checks'
  size, classes = facts['image_size'], len(facts['class_names'])
  arrays = [
    tensor(weights[name].shape, weights[name].dtype) for name in sorted(weights)
  ]
  inputs = [*arrays, tensor(('?', size, size, 3), np.dtype(np.uint8))]
  of_image = {
    'segmentation': (size, size, classes),
    'detection': DETECTIONS,
  }.get(facts.get('task'), (classes,))
  output = [tensor(('?', *of_image), np.dtype(np.float32))]
  said = [
    [tensor(x.shape, x.dtype) for x in avals]
    for avals in (exported.in_avals, exported.out_avals)
  ]
  tree = jax.tree.structure(((dict.fromkeys(weights, 0), 0), {}))
  if exported.in_tree != tree or said[0] != inputs:
    return 'takes other weights or images than this folder has'
  batch = str(exported.in_avals[-1].shape[0])
  if not batch.isidentifier():
    return f'takes {batch} images, not any number'
  if (
    exported.out_tree != jax.tree.structure(0)
    or said[1] != output
    or str(exported.out_avals[0].shape[0]) != batch
  ):
    what = 'detections' if of_image == DETECTIONS else 'logits'
    return f'returns something else than the {what} of {classes} classes'
  with jax.interpreters.mlir.make_ir_context() as context:
    serialized = exported.mlir_module_serialized
    module = stablehlo.deserialize_portable_artifact(context, serialized)
    main = ir.SymbolTable(module.operation)['main'].type
    kept = [inputs[i] for i in exported.module_kept_var_idx]
    kept = ['tensor<i32>'] * (len(exported.platforms) > 1) + kept
    types = [list(map(str, part)) for part in (main.inputs, main.results)]
    if types != [kept, output]:
      return 'computes something else than it says'
    waiting = [module.operation]
    while waiting:
      operation = waiting.pop()
      dialect, _, name = operation.name.partition('.')
      if name == 'custom_call':
        name = ir.StringAttr(operation.attributes['call_target_name']).value
        if name not in CALLS:
          return f'calls {name[:80]!r}, which no export of kd_jax does'
      elif dialect not in ('builtin', 'func', 'stablehlo') or name in _HOST:
        return f'does {operation.name}, which no export of kd_jax does'
      for region in operation.regions:
        waiting += [x.operation for block in region for x in block]
  return ''


def palette():
  """Returns Pascal VOC's colours of 256 classes, 768 numbers.

  The bits of a class's number are the high bits of its colour, by turns.
  """
  bits = range(8)
  return [
    sum((k >> (3 * i + c) & 1) << (7 - i) for i in bits)
    for k in range(256)
    for c in range(3)
  ]


def save_mask(classes, path, sides):
  """Writes classes [h,w] u8 of pixels as a PNG with a palette.

  Args:
    classes: The classes.
    path: The path of the file, or a file that is open for bytes.
    sides: The width and the height of the image, which the PNG has.
  """
  from PIL import Image

  mask = Image.fromarray(classes).resize(sides, Image.Resampling.NEAREST)
  mask.putpalette(palette())
  mask.save(path, 'PNG')


def tensor(shape, dtype):
  """Returns the name of a type in StableHLO; only a batch has any size."""
  short = {'V': 'bf', 'b': 'i', 'u': 'ui'}.get(dtype.kind, dtype.kind)
  bits = 1 if dtype.kind == 'b' else 8 * dtype.itemsize
  sizes = [n if isinstance(n, int) else '?' for n in shape]
  return 'tensor<' + 'x'.join([*map(str, sizes), f'{short}{bits}>'])


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


# Those that training reads; for others Pillow may start a program.
FORMATS = {
  'JPEG',
  'PNG',
  'BMP',
  'WEBP',
  'GIF',
  'PPM',
  'TIFF',
  'JPEG2000',
  'AVIF',
}


def fit(image, size):
  """Returns the centre of an image whose shorter side is 8/7 of `size`."""
  scale = size * 8 / 7 / min(image.size)
  sides = [max(size, round(side * scale)) for side in image.size]
  box = [(side - size) // 2 for side in sides]
  box += [first + size for first in box]
  if math.prod(sides) > max(math.prod(image.size), 64 * size**2):
    # Of a strip only the middle is scaled, cut out first, as edges are float32.
    edges = [x * image.size[i % 2] / sides[i % 2] for i, x in enumerate(box)]
    cut = [math.floor(x) - 2 for x in edges[:2]]
    cut = [max(0, x) for x in cut] + [math.ceil(x) + 2 for x in edges[2:]]
    cut[2:] = map(min, cut[2:], image.size)
    edges = [x - cut[i % 2] for i, x in enumerate(edges)]
    return image.crop(cut).resize((size, size), 2, box=edges)
  return image.resize(sides, 2).crop(box)  # 2: bilinear


def resized(image, size, task):
  """Returns a Pillow image at a network's size, as it saw those of its data."""
  if task == 'detection':  # 1: EXTENT, which averages no pixels; 2: bilinear
    return image.transform((size, size), 1, (0, 0, *image.size), 2)
  whole = task == 'segmentation'
  return image.resize((size, size), 2) if whole else fit(image, size)


def read(path, size, task=None):
  """Returns a file's images [N,size,size,3] u8, labels or None, and sides.

  Args:
    path: The file.
    size: The height and width of the network's images, in pixels.
    task: The network's task.

  Returns:
    The images, labels [N], [N,1] or [N,size,size] where the file has them, and
    the width and height of an image file; of arrays None.
  """
  try:
    if path.exists() and not path.is_file():
      raise ValueError('it is no file')
    if path.suffix.lower() == '.npy':
      return np.load(path), None, None
    if path.suffix.lower() == '.npz':
      return (arrays := np.load(path))['image'], arrays.get('label'), None
    from PIL import Image

    content = path.read_bytes()
    scans = content.count(b'\xff\xda') if content[:2] == b'\xff\xd8' else 0
    if scans > 100 + len(content) // 10_000:
      raise ValueError(f'it has {scans} scans, so that it may be an attack')
    Image.init()  # registers the formats that this Pillow knows
    with Image.open(path, formats=[*FORMATS & Image.OPEN.keys()]) as file:
      image = Image.fromarray(rgb(file))
  except ImportError as error:
    raise ValueError(f'{path}: pip install pillow, or give .npy') from error
  except Exception as error:  # what a damaged file causes is open
    raise ValueError(f'{path}: {str(error) or type(error).__name__}') from error
  sides = image.size
  if sides != (size, size):
    image = resized(image, size, task)
  return np.asarray(image)[None], None, sides


def measured(chosen, labels, count):
  """Returns what is right of the pixels of images, as a text.

  Args:
    chosen: The predicted classes, [N,H,W].
    labels: The true ones, [N,H,W]; what is no class, such as 255, is left out.
    count: The number of classes, K.
  """
  if labels.shape != chosen.shape:
    raise ValueError(f'labels {labels.shape} of images {chosen.shape}')
  counts = (labels >= 0) & (labels < count)
  cells = count * labels[counts].astype(np.int64) + chosen[counts]
  matrix = np.bincount(cells, minlength=count**2).reshape(count, count)
  right, either = matrix.diagonal(), matrix.sum(0) + matrix.sum(1)
  union = either - right
  iou = 100 * (right[union > 0] / union[union > 0]).sum()
  miou = iou / max((union > 0).sum(), 1)
  return f'{right.sum()} of {counts.sum()} pixels correct, mIoU {miou:.2f}%'


def write(chosen, name, sides):
  """Writes the classes [N,H,W] u8 of pixels, and returns the file's name.

  Args:
    chosen: The classes.
    name: The name of the images' file, without its suffix.
    sides: The width and height of an image file; None for arrays.
  """
  out = f'{name}.classes.' + ('png' if sides else 'npy')
  with open(out, 'xb') as file:  # what is there already stays
    save_mask(chosen[0], file, sides) if sides else np.save(file, chosen)
  return out


def objects(rows, names, sides):
  """Returns the objects of an image as a list of dicts.

  Args:
    rows: The detections, [R,6]; see `DETECTIONS`.
    names: The names of the classes.
    sides: The width and height of the image, in pixels, in which boxes are.
  """
  scale = np.tile(np.asarray(sides, np.float64), 2)
  return [
    {
      'class': names[int(label)],
      'score': round(float(score), 4),
      'box': [round(float(x), 2) for x in np.clip(box, 0, 1) * scale],
    }
    for label, score, *box in rows
    if label >= 0
  ]


def predict(facts, forward, path):
  """Returns the lines that say what the network predicts for a file."""
  task = facts.get('task')
  is_dense, finds = task == 'segmentation', task == 'detection'
  size, names = facts['image_size'], facts['class_names']
  images, labels, sides = read(path, size, task)
  count = max(1, 2**22 // size**2) if is_dense else 256  # images of a step
  chosen = []
  for i in range(0, len(images), count):
    logits = forward(images[i : i + count])
    if not np.isfinite(logits).all():
      raise ValueError(f'{path}: the logits are no finite numbers')
    # Of equal logits the first.
    chosen.append(logits if finds else logits.argmax(axis=-1))
  chosen = np.concatenate(chosen)
  if finds:
    return [
      json.dumps({'file': str(path), 'image': i, **row})
      for i, rows in enumerate(chosen)
      for row in objects(rows, names, sides or (size, size))
    ]
  if labels is None and is_dense:
    out = write(chosen.astype(np.uint8), path.stem, sides)
    return [f'{shown(path)}\t{shown(out)}']
  if labels is None:
    return [f'{shown(path)}\t{shown(names[k])}' for k in chosen]
  if is_dense:
    return [f'{shown(path)}: {measured(chosen, labels, len(names))}']
  if labels.shape not in ((len(images),), (len(images), 1)):
    raise ValueError(
      f'{path}: label has shape {labels.shape} for {len(images)} images; give '
      'each image one class index, [N] or [N,1]'
    )
  right = (chosen == labels.reshape(-1)).sum()
  return [f'{shown(path)}: {right} of {len(labels)} correct']


if __name__ == '__main__':
  files = sys.argv[1:]
  if files in ([], ['-h'], ['--help']):
    print(__doc__, file=sys.stdout if files else sys.stderr)
    sys.exit(0 if files else 2)
  try:
    facts, forward = load(pathlib.Path(__file__).parent)
    for path in map(pathlib.Path, files):
      print(*predict(facts, forward, path), sep='\n')
  except (
    KeyError,
    OSError,
    RecursionError,
    SafetensorError,
    TypeError,
    ValueError,
  ) as error:
    print(f'predict.py: {shown(error)}', file=sys.stderr)
    sys.exit(2)
