"""Detection of objects: multibox losses, and VOC's average precision."""

from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from kd_jax import boxes, errors, losses
from kd_jax.features import Batch, Features
from kd_jax.tasks import average_precision, base

DEPLOYED = 200  # detections of an image that an export returns
Outputs = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Detection:
  """The task of finding objects with their boxes; see `base.Task`.

  A batch has 'boxes' [N,M,4] f32, in corner form and in fractions of the image,
  'label' [N,M] i32, which is -1 where a row pads, and 'difficult' [N,M] bool. A
  network has the features 'offsets' [N,P,4], 'logits' [N,P,K+1] with the
  background first, and 'priors' [N,P,4] in centre form. Of an export only its
  'detections' [N,K,R,5] are known, and there is no loss.
  """

  name: ClassVar[str] = 'detection'
  headline: ClassVar[base.Metric] = base.Metric('map', 'mAP')

  def example(self, batch_size: int, image_size: int) -> dict[str, Any]:
    """Returns the targets of 2 objects an image; a data set has its own M."""
    del image_size
    shape = (batch_size, 2)
    return {
      'boxes': jax.ShapeDtypeStruct((*shape, 4), jnp.float32),
      'label': jax.ShapeDtypeStruct(shape, jnp.int32),
      'difficult': jax.ShapeDtypeStruct(shape, jnp.bool_),
    }

  def supervised(self, feats: Features, batch: Batch) -> jax.Array:
    """Returns the sum of multibox's losses; difficult objects do not count."""
    box, entropy, _ = _losses(self.outputs(feats), batch)
    return box + entropy

  def distilled(
    self, student: Features, teacher: Features, batch: Batch, temperature: float
  ) -> jax.Array:
    """Returns `losses.multibox_kl` of the logits [N,P,K+1].

    Raises:
      UsageError: The networks do not have the same priors.
    """
    classes, _ = _targets(student['priors'], batch)
    return losses.multibox_kl(*_logits(student, teacher), classes, temperature)

  def logit_rows(
    self, student: Features, teacher: Features, batch: Batch
  ) -> base.LogitRows:
    """Returns the logits of all priors; those that multibox selects count.

    They are the positive priors and the background that the student finds
    hardest (`losses.multibox_selected`); the label 0 is the background.

    Raises:
      UsageError: The networks do not have the same priors.
    """
    s, t = _logits(student, teacher)
    classes, _ = _targets(student['priors'], batch)
    return base.LogitRows(
      s.reshape(-1, s.shape[-1]),
      t.reshape(-1, t.shape[-1]),
      classes.ravel(),
      losses.multibox_selected(s, classes).ravel(),
    )

  def outputs(self, feats: Features) -> Outputs:
    """Returns 'offsets', 'logits' and 'priors'."""
    return {name: feats[name] for name in ('offsets', 'logits', 'priors')}

  def count(self, outputs: Outputs, batch: Batch) -> base.Counts:
    """Returns the sums of multibox's losses and what they are divided by.

    Args:
      outputs: The result of `outputs`.
      batch: The batch, with 'mask' [N] f32.

    Returns:
      'loss' [] f32, 'positives' [] i32, the number of positive priors, and
      'images' [] i32, which alone an export has.
    """
    images = {'images': (batch['mask'] > 0).sum(dtype=jnp.int32)}
    if 'detections' in outputs:
      return images
    box, entropy, positives = _losses(outputs, _without_padding(batch))
    loss = (box + entropy) * jnp.maximum(positives, 1)
    return {'loss': loss, 'positives': positives, **images}

  def count_classes(self, outputs: Outputs, batch: Batch) -> base.Counts:
    """Returns 'objects' [K] i32, the objects that are not difficult."""
    count = detections(outputs).shape[1]
    labels = _trained(_without_padding(batch))
    classes = jnp.arange(count)[None, None, :]
    objects = (labels[..., None] == classes).sum(axis=(0, 1), dtype=jnp.int32)
    return {'objects': objects}

  def of_classes(
    self, sums: Mapping[str, Any], rows: Mapping[str, Any] = base.NO_ROWS
  ) -> dict[str, Any]:
    """Returns 'objects' and 'ap' of each class; see `by_class`."""
    return {'objects': sums['objects'], 'ap': self.by_class(rows)['ap']}

  def deployed(self, outputs: Outputs) -> jax.Array:
    """Returns the 200 strongest detections of each image, [N,200,6] f32.

    A detection is the class, the score and the box; see `boxes.strongest`. All
    of an image is NaN where an output of its network is no finite number.
    """
    found = boxes.strongest(detections(outputs), DEPLOYED)
    short = DEPLOYED - found.shape[1]
    if short > 0:  # few classes and priors
      none = jnp.array([-1.0, 0, 0, 0, 0, 0])[None, None]
      none = jnp.broadcast_to(none, (found.shape[0], short, 6))
      found = jnp.concatenate([found, none], axis=1)
    finite = jnp.ones(found.shape[0], bool)
    for value in outputs.values():
      finite &= jnp.isfinite(value).all(axis=tuple(range(1, value.ndim)))
    return jnp.where(finite[:, None, None], found, jnp.nan)

  def of_deployed(self, values: jax.Array, num_classes: int) -> Outputs:
    """Returns 'detections' [N,K,200,5]; see `deployed`."""
    classes = jnp.arange(num_classes)[None, :, None]
    label = values[:, None, :, 0]
    chosen = (label == classes) | jnp.isnan(label)
    rows = jnp.where(chosen[..., None], values[:, None, :, 1:], 0.0)
    return {'detections': rows}

  def rows(self, outputs: Outputs, batch: Batch) -> base.Counts:
    """Returns the detections in each image, beside its objects.

    Args:
      outputs: The result of `outputs`.
      batch: The batch, with 'mask' [N] f32.

    Returns:
      'detections' [N,K,T,5] f32 (see `boxes.detect`), and 'boxes', 'label',
      'difficult' and 'mask' of the batch.
    """
    names = ('boxes', 'label', 'difficult', 'mask')
    return {
      'detections': detections(outputs),
      **{name: batch[name] for name in names},
    }

  def figures(
    self, sums: Mapping[str, Any], rows: Mapping[str, Any] = base.NO_ROWS
  ) -> dict[str, Any]:
    """Returns the figures of a whole split.

    Args:
      sums: The results of `count`, added up over the split's batches.
      rows: The results of `rows`, concatenated over the split's batches; where
        there are none, neither is there a mean average precision.

    Returns:
      'map' and 'map_area': The means of `by_class`, in percent.
      'loss': Multibox's loss, divided by the positive priors of the split; an
        export has none.
      'images': The number of images.
    """
    means = {}
    if 'loss' in sums:
      positives = sums['positives']
      means['loss'] = sums['loss'] / (positives + (positives == 0))
    if rows:
      for name, values in self.by_class(rows).items():
        counted = values[~np.isnan(values)]
        means[f'm{name}'] = float(counted.mean()) if len(counted) else 0.0
    return {**means, 'images': sums['images']}

  def by_class(self, rows: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the average precisions of every class, in percent.

    Args:
      rows: The results of `rows`, concatenated over the split's batches.

    Returns:
      'ap' and 'ap_area', [K] f64 each; see `average_precisions`.
    """
    values = average_precision.average_precisions(
      _objects(rows), _detections(rows), rows['detections'].shape[1]
    )
    return {name: 100 * value for name, value in values.items()}


def _logits(
  student: Features, teacher: Features
) -> tuple[jax.Array, jax.Array]:
  s, t = student['logits'], teacher['logits']
  if s.shape != t.shape:
    raise errors.UsageError(
      f'logits of {s.shape[1:]} and {t.shape[1:]} (priors, classes): take a '
      'student and a teacher with the same priors'
    )
  return s, t


def detections(outputs: Outputs) -> jax.Array:
  """Returns the detections of a batch, [N,K,T,5] f32; see `boxes.detect`.

  Args:
    outputs: The result of `Detection.outputs`.
  """
  if 'detections' in outputs:
    return outputs['detections']
  scores = jax.nn.softmax(outputs['logits'].astype(jnp.float32))[..., 1:]
  return boxes.detect(
    boxes.decode(outputs['offsets'], outputs['priors']), scores
  )


def _without_padding(batch: Batch) -> Batch:
  """Returns the batch without the objects of images that pad."""
  there = batch['mask'] > 0
  return {**batch, 'label': jnp.where(there[:, None], batch['label'], -1)}


def _trained(batch: Batch) -> jax.Array:
  """Returns the labels [N,M] i32 of objects that are not difficult, or -1."""
  return jnp.where(batch['difficult'], -1, batch['label'])


def _targets(priors: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
  return boxes.targets(batch['boxes'], _trained(batch), priors)


def _losses(
  outputs: Outputs, batch: Batch
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns multibox's two losses [] f32 and the positive priors [] i32."""
  classes, targets = _targets(outputs['priors'], batch)
  box, entropy = losses.multibox(
    outputs['offsets'], outputs['logits'], classes, targets
  )
  return box, entropy, (classes > 0).sum(dtype=jnp.int32)


def _objects(rows: Mapping[str, Any]) -> average_precision.Objects:
  labels = np.where(np.asarray(rows['mask'])[:, None] > 0, rows['label'], -1)
  image, row = np.nonzero(labels >= 0)
  return average_precision.Objects(
    image,
    labels[image, row],
    np.asarray(rows['boxes'], np.float64)[image, row],
    np.asarray(rows['difficult'], bool)[image, row],
  )


def _detections(rows: Mapping[str, Any]) -> average_precision.Detections:
  every = np.asarray(rows['detections'])
  there = np.asarray(rows['mask'])[:, None, None] > 0
  image, label, row = np.nonzero((every[..., 0] > 0) & there)
  chosen = every[image, label, row].astype(np.float64)
  return average_precision.Detections(image, label, chosen[:, 0], chosen[:, 1:])
