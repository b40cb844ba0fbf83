"""Exports of strangers: programs that do more than label images, odd facts.

An attack writes an export whose digests are right, since who makes it computes
them, and loads it. Harm is code or memory of this process, a traceback, a
wait, or an answer that means nothing.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import os
import pathlib
import shutil
import sys
import threading
import time

import jax
from jax import export
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest
from safetensors import numpy as safetensors

import kd_jax
from kd_jax import errors
from kd_jax.cli import predict as predict_cli
from kd_jax.export import artifact
from kd_jax.training import restore
from tests import children
from tests.attacks import attack

SIZE, CLASSES = 8, 10
WEIGHTS = {'w': np.ones((SIZE * SIZE * 3, CLASSES), np.float32)}
FACTS = {
  'format': 1,
  'kd_jax': '0.1.0',
  'jax': jax.__version__,
  'network': 'resnet8',
  'network_args': {},
  'dtype': 'float32',
  'image_size': SIZE,
  'mean': [0.5] * 3,
  'std': [0.2] * 3,
  'class_names': [str(k) for k in range(CLASSES)],
  'kept': ['student'],
  'parameters': 1920,
  'flops': 3840.0,
  'accuracy': {
    'data': 'digits', 'split': 'test', 'images': 360, 'correct': 36,
    'top1': 10.0,
  },
  'data': {'name': 'digits', 'train_size': 0, 'val_fraction': 0.0},
  'result': {'method': 'ce'},
  'teacher': None,
}  # fmt: skip
NAMES = (artifact.WEIGHTS, artifact.FORWARD)


def forward(weights, images):
  """The honest forward pass."""
  pixels = images.reshape(images.shape[0], -1).astype(jnp.float32)
  return pixels @ weights['w']


def program(function=forward, weights=None, side=SIZE, batch='batch', calls=()):
  """Returns a serialized program; JAX's checks of custom calls are off."""
  size = export.symbolic_shape(batch)[0]
  shapes = {
    name: jax.ShapeDtypeStruct(value.shape, value.dtype)
    for name, value in (weights or WEIGHTS).items()
  }
  checks = [export.DisabledSafetyCheck.custom_call(name) for name in calls]
  images = jax.ShapeDtypeStruct((size, side, side, 3), jnp.uint8)
  exporting = export.export(
    jax.jit(function), platforms=('cpu',), disabled_checks=checks
  )
  # Whoever forges a file leaves out that checks were off.
  made = exporting(shapes, images)
  return bytes(dataclasses.replace(made, disabled_safety_checks=()).serialize())


@functools.cache
def honest():
  """Returns the honest program."""
  return program()


def write(place, content=None, weights=None, facts=None):
  """Writes an export with digests that fit; returns its folder."""
  folder = place / 'export'
  folder.mkdir()
  files = {
    artifact.WEIGHTS: safetensors.save(weights or WEIGHTS),
    artifact.FORWARD: honest() if content is None else content,
  }
  for name, value in files.items():
    (folder / name).write_bytes(value)
  shas = {n: hashlib.sha256(files[n]).hexdigest() for n in files}
  text = json.dumps({**FACTS, 'sha256': shas, **(facts or {})})
  (folder / artifact.FACTS).write_text(text)
  return folder


def refused(folder):
  """Fails unless an export is refused in one line, within this process."""
  with pytest.raises(errors.UsageError) as raised:
    restore.load(folder)
  said = str(raised.value)
  assert '\n' not in said, said
  assert str(folder) in said, said


@attack(quick=True)
def an_honest_one_is_read(place):
  found = restore.load(write(place))
  images = np.zeros((2, SIZE, SIZE, 3), np.uint8)
  assert found.forward(found.weights, images).shape == (2, CLASSES)


def ffi(target, **attributes):
  """Returns a forward pass with a custom call."""

  def called(weights, images):
    shape = jax.ShapeDtypeStruct((1,), jnp.float32)
    call = jax.ffi.ffi_call(target, shape, has_side_effect=True)
    extra = call(weights['w'][0, :1], **attributes)
    return forward(weights, images) + extra.sum()

  return called


def within(place):
  """Puts a custom call where a look at the main function misses it."""

  def branch(weights, images):
    hidden = ffi(TARGET, index=np.uint64(0))
    return jax.lax.cond(
      weights['w'][0, 0] > 2, hidden, forward, weights, images
    )

  def loop(weights, images):
    def body(carry):
      return carry + ffi(TARGET, index=np.uint64(0))(weights, images)

    first = forward(weights, images)
    return jax.lax.while_loop(lambda x: x[0, 0] > 1e30, body, first)

  def called(weights, images):
    return jax.jit(jax.jit(ffi(TARGET, index=np.uint64(0))))(weights, images)

  return {'branch': branch, 'loop': loop, 'called': called}[place]


TARGET = 'xla_ffi_python_cpu_callback'
TARGETS = (
  TARGET, 'xla_python_cpu_callback', 'xla_ffi_python_gpu_callback',
  'xla_ffi_partitioned_python_cpu_callback', 'lapack_sgetrf_ffi', 'Sharding',
  'shape_assertion2', 'SHAPE_ASSERTION', 'tpu_custom_call', 'cu_threefry2x32',
  '__gpu$xla.gpu.triton', 'ExtractEffects\x1b[2J',
)  # fmt: skip


@attack(quick=True, cases=TARGETS)
def custom_call(place, target):
  content = program(ffi(target, index=np.uint64(0)), calls=[target])
  refused(write(place, content))


@attack(quick=True, cases=['branch', 'loop', 'called'])
def hidden_call(place, where):
  content = program(within(where), calls=[TARGET])
  refused(write(place, content))


@attack(quick=False, cases={'null': 0, 'far': 0x414141414141})
def callback_by_address(place, index):
  content = program(ffi(TARGET, index=np.uint64(index)), calls=[TARGET])
  folder = write(place, content)
  np.save(place / 'one.npy', np.zeros((1, SIZE, SIZE, 3), np.uint8))
  shutil.copy(
    pathlib.Path(artifact.__file__).with_name('predict_template.py'),
    folder / 'predict.py',
  )
  ended = children.run(
    [sys.executable, str(folder / 'predict.py'), str(place / 'one.npy')]
  )
  assert ended.returncode == 2, ended
  assert 'Traceback' not in ended.stderr


def noise(weights, images):
  """Prints from within the program."""
  jax.debug.print('{}', weights['w'][0, 0])
  return forward(weights, images)


TYPES = {
  'two outputs': lambda w, x: (forward(w, x), x),
  'a dict': lambda w, x: {'logits': forward(w, x)},
  'no output': lambda w, x: (),
  'fewer classes': lambda w, x: forward(w, x)[:, :9],
  'more classes': lambda w, x: jnp.tile(forward(w, x), 2),
  'no batch': lambda w, x: forward(w, x)[0],
  'a fixed batch': lambda w, x: jnp.zeros((5, CLASSES)),
  'a larger batch': lambda w, x: jnp.tile(forward(w, x), (2, 1)),
  'bfloat16': lambda w, x: forward(w, x).astype(jnp.bfloat16),
  'integers': lambda w, x: forward(w, x).astype(jnp.int32),
}


@attack(quick=True, cases=TYPES)
def wrong_output(place, function):
  refused(write(place, program(function)))


INPUTS = {
  'other size': {'side': 9},
  'fixed batch': {'batch': '4'},
  'even batch': {'batch': '2*half'},
  'other name': {'weights': {'w': WEIGHTS['w'], 'v': WEIGHTS['w']}},
}


@attack(quick=True, cases=INPUTS)
def wrong_input(place, options):
  def function(weights, images):
    small = images[:, :SIZE, :SIZE]
    return forward(weights, small)

  with contextlib.suppress(ValueError):
    if options.get('batch') == '4':
      images = jax.ShapeDtypeStruct((4, SIZE, SIZE, 3), jnp.uint8)
      shapes = {'w': jax.ShapeDtypeStruct(WEIGHTS['w'].shape, jnp.float32)}
      content = export.export(jax.jit(forward), platforms=('cpu',))(
        shapes, images
      )
      refused(write(place, bytes(content.serialize())))
      return
  refused(write(place, program(function, **options)))


WRONG_WEIGHTS = {
  'other shape': {'w': np.ones((SIZE * SIZE * 3, 9), np.float32)},
  'other dtype': {'w': np.ones((SIZE * SIZE * 3, CLASSES), np.float16)},
  'none': {'v': np.ones(1, np.float32)},
  'one more': {**WEIGHTS, 'z': np.ones(1, np.float32)},
  'nan': {'w': np.full((SIZE * SIZE * 3, CLASSES), np.nan, np.float32)},
  'infinite': {'w': np.full((SIZE * SIZE * 3, CLASSES), np.inf, np.float32)},
}


@attack(quick=True, cases=WRONG_WEIGHTS)
def wrong_weights(place, weights):
  refused(write(place, weights=weights))


@attack(quick=True, cases=['empty', 'cut', 'text', 'zeros', 'flipped', 'long'])
def damaged_program(place, kind):
  whole = honest()
  flipped = bytearray(whole)
  for i in range(100, len(whole), 97):
    flipped[i] ^= 0x55
  content = {
    'empty': b'',
    'cut': whole[: len(whole) // 2],
    'text': b'hello',
    'zeros': bytes(2000),
    'flipped': bytes(flipped),
    'long': b'\xff' * 4000,
  }[kind]
  refused(write(place, content))


def huge():
  text = json.dumps({**FACTS, 'sha256': dict.fromkeys(NAMES, '0')})
  return text.replace('"format": 1', '"format": ' + '1' * 5000)


TEXTS = {
  'empty': lambda: '',
  'cut': lambda: json.dumps(FACTS)[:90],
  'a list': lambda: '[]',
  'null': lambda: 'null',
  'deep': lambda: '{"a":' + '[' * 100_000 + ']' * 100_000 + '}',
  'huge number': huge,
  'infinite': lambda: '{"format": 1e999}',
  'bytes': lambda: '\x00\x01\udcff',
  'twice': lambda: json.dumps(FACTS)[:-1] + ', "image_size": 4}',
}


@attack(quick=True, cases=TEXTS)
def damaged_facts(place, text):
  folder = write(place)
  path = folder / artifact.FACTS
  path.write_bytes(text().encode('utf-8', 'surrogateescape'))
  refused(folder)


FIELDS = {
  'format text': {'format': '1'},
  'format true': {'format': True},
  'size text': {'image_size': '8'},
  'size 0': {'image_size': 0},
  'size negative': {'image_size': -8},
  'size fraction': {'image_size': 8.5},
  'size huge': {'image_size': 10**9},
  'classes number': {'class_names': 10},
  'classes text': {'class_names': '0123456789'},
  'classes none': {'class_names': []},
  'classes numbers': {'class_names': list(range(10))},
  'fewer classes': {'class_names': ['a']},
  'sha256 list': {'sha256': []},
  'sha256 null': {'sha256': None},
  'jax number': {'jax': 1},
  'mean short': {'mean': [0.5]},
  'mean texts': {'mean': ['a'] * 3},
  'std zero': {'std': [0.0] * 3},
  'std nan': {'std': [float('nan')] * 3},
  'accuracy text': {'accuracy': 'good'},
  'top1 nan': {'accuracy': {'top1': float('nan')}},
  'top1 500': {'accuracy': {'top1': 500.0}},
  'data list': {'data': []},
  'kept none': {'kept': []},
}


@attack(quick=True, cases=FIELDS)
def wrong_fact(place, facts):
  refused(write(place, facts=facts))


@attack(quick=True, cases=['network.json', *NAMES])
def pipe(place, name):
  folder = write(place)
  (folder / name).unlink()
  os.mkfifo(folder / name)
  began = time.monotonic()
  with ended(folder / name):
    refused(folder)
  assert time.monotonic() - began < 1


@contextlib.contextmanager
def ended(path):
  """Ends whoever waits for a pipe's other end, after two seconds."""

  def release():
    with contextlib.suppress(OSError):
      os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

  timer = threading.Timer(2, release)
  timer.start()
  try:
    yield
  finally:
    timer.cancel()
    timer.join()


@attack(quick=True, cases=['network.json', *NAMES])
def device(place, name):
  folder = write(place)
  (folder / name).unlink()
  (folder / name).symlink_to('/dev/null')
  refused(folder)


@attack(quick=True)
def code_as_data(place):
  folder = write(place, facts={'data': {'name': 'attack_module:open'}})
  (place / 'attack_module.py').write_text('raise SystemExit("CODE RAN")\n')
  sys.path.insert(0, str(place))
  try:
    with pytest.raises(errors.UsageError, match='attack_module'):
      kd_jax.evaluate(folder)
  finally:
    sys.path.remove(str(place))


@attack(quick=True)
def infinite_logits(place):
  def function(weights, images):
    return forward(weights, images) * jnp.inf

  folder = write(place, program(function))
  Image.new('RGB', (SIZE, SIZE)).save(place / 'image.png')
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = predict_cli.main([str(folder), str(place / 'image.png')])
  assert code == 1, out.getvalue()
  assert 'nan' not in out.getvalue()
  assert 'finite' in err.getvalue()
