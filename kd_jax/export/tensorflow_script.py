"""Writes the network of an export for TensorFlow: the script of `tflite`.

Its argument is the folder. It runs in a process of its own, which alone imports
TensorFlow, and needs jax, numpy, safetensors and tensorflow. It writes

  saved_model          a SavedModel; `serve` maps images [N,H,W,3] u8 to logits
  student.tflite       the same for TFLite (LiteRT), in float32
  student.int8.tflite  with kernels of 8 bits (dynamic quantisation)

and prints, as JSON, the largest difference of each from the logits of JAX, in
parts of the largest logit. The exit code 3 says that TensorFlow is missing.
"""

import json
import os
import pathlib
import sys

import jax
import jax.export
import numpy as np
from safetensors import numpy as safetensors

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
try:
  import tensorflow as tf
except ImportError as error:
  print(error, file=sys.stderr)
  sys.exit(3)
from jax.experimental import jax2tf

SAVED, FLOAT, INT8 = 'saved_model', 'student.tflite', 'student.int8.tflite'
BATCHES = (1, 3)  # the batch sizes that are compared


def main(folder):
  """Writes the files and prints the differences."""
  facts = json.loads((folder / 'network.json').read_text())
  size = facts['image_size']
  content = (folder / 'forward.jax_export').read_bytes()
  program = jax.export.deserialize(bytearray(content))
  weights = safetensors.load_file(folder / 'weights.safetensors')
  function = jax2tf.convert(
    lambda images: program.call(weights, images),
    polymorphic_shapes=[f'(batch, {size}, {size}, 3)'],
    native_serialization_platforms=['cpu', 'cuda', 'tpu'],
    with_gradient=False,
  )
  module = tf.Module()
  spec = tf.TensorSpec([None, size, size, 3], tf.uint8, name='images')
  module.serve = tf.function(function, autograph=False, input_signature=[spec])
  saved = str(folder / SAVED)
  tf.saved_model.save(module, saved, signatures={'serve': module.serve})
  converter = tf.lite.TFLiteConverter.from_saved_model(
    saved, signature_keys=['serve']
  )
  (folder / FLOAT).write_bytes(converter.convert())
  converter.optimizations = [tf.lite.Optimize.DEFAULT]
  (folder / INT8).write_bytes(converter.convert())

  forwards = {
    SAVED: lambda images: tf.saved_model.load(saved).serve(images).numpy(),
    FLOAT: lambda images: interpreted(folder / FLOAT, images),
    INT8: lambda images: interpreted(folder / INT8, images),
  }
  rng, far = np.random.default_rng(0), dict.fromkeys(forwards, 0.0)
  for count in BATCHES:
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    want = np.asarray(jax.jit(program.call)(weights, images))
    for name, forward in forwards.items():
      far[name] = farthest(far[name], forward(images), want)
  print(json.dumps(far))


def farthest(known, got, want):
  """Returns the larger of a difference and that of logits, in parts.

  Args:
    known: The largest difference so far; NaN if a logit was NaN.
    got: The logits, [N,K].
    want: Those of JAX, the largest of which is the unit.

  Returns:
    The larger one as a float; NaN, which no bound allows, if a logit is NaN.
  """
  difference = np.abs(got - want).max() / np.abs(want).max()
  return float(np.maximum(known, difference))


def interpreted(path, images):
  """Returns the logits of a TFLite file, [N,K] f32."""
  interpreter = tf.lite.Interpreter(model_path=str(path))
  (given,) = interpreter.get_input_details()
  interpreter.resize_tensor_input(given['index'], images.shape)
  interpreter.allocate_tensors()
  interpreter.set_tensor(given['index'], images)
  interpreter.invoke()
  (returned,) = interpreter.get_output_details()
  return interpreter.get_tensor(returned['index'])


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]))
