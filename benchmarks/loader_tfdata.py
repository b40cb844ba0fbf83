"""Measures ImageNet's training batches made by tf.data; see `turns.py`.

It runs in its own process, and kd_jax never imports it. Only the crop is
decoded; it is resized without antialiasing, as TensorFlow's recipes do, and
flipped. Batches are uint8. It uses as many threads as the other loaders use
workers.
"""

from collections.abc import Iterator
import pathlib
from typing import Any

import turns

_AREA, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def make(given: dict[str, Any]) -> tuple[Iterator[Any], str]:
  """Returns the batches, reshuffled each epoch, and TensorFlow's version."""
  import tensorflow as tf

  threads, size = max(1, given['workers']), given['size']
  tf.config.threading.set_intra_op_parallelism_threads(1)
  tf.config.threading.set_inter_op_parallelism_threads(threads)
  files = sorted(pathlib.Path(given['folder']).glob('*/*'))
  names = sorted({file.parent.name for file in files})
  labels = [names.index(file.parent.name) for file in files]

  def read(path: Any, label: Any) -> tuple[Any, Any]:
    content = tf.io.read_file(path)
    begin, extent, _ = tf.image.sample_distorted_bounding_box(
      tf.image.extract_jpeg_shape(content),
      tf.constant([0.0, 0.0, 1.0, 1.0], shape=[1, 1, 4]),
      aspect_ratio_range=_RATIO,
      area_range=_AREA,
      max_attempts=10,
      use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([begin[:2], extent[:2]], 0)
    image = tf.image.decode_and_crop_jpeg(content, window, channels=3)
    image = tf.image.resize(image, (size, size))
    return tf.image.random_flip_left_right(tf.cast(image, tf.uint8)), label

  images = tf.data.Dataset.from_tensor_slices(([str(f) for f in files], labels))
  images = images.shuffle(len(files)).repeat()
  images = images.map(read, num_parallel_calls=threads, deterministic=False)
  images = images.batch(given['batch'], drop_remainder=True).prefetch(2)
  options = tf.data.Options()
  options.threading.private_threadpool_size = threads
  options.threading.max_intra_op_parallelism = 1
  batches = images.with_options(options).as_numpy_iterator()
  return batches, f'tensorflow {tf.__version__}'


if __name__ == '__main__':
  turns.main(make)
