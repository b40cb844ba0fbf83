"""Methods on segmentation: those that distil it, and the others' refusal."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kd_jax import errors, models, tasks
from kd_jax.distill import checks, step
from kd_jax.methods import registry
from tests import few_scenes, tiny
from tests.cli import train_test

DENSE = [n for n in registry.names() if registry.method_class(n).is_dense]
OTHERS = sorted({*registry.names()} - {*DENSE})
SIZE, BATCH = few_scenes.SIZE, 4
TASK = tasks.find('segmentation')
ARGUMENTS = {
  'cc': {'width': 8},
  'fpd': {'width': 16},
  'ofd': {
    'stages': (1, 2, 3, 4, 'aspp', 'decoder'),
    'divisors': (8.0, 4.0, 2.0, 1.0, 1.0, 16.0),
  },
  'tf_fd': {'with_kd': True},
}
# Those whose teacher has the student's channels.
EQUAL = ('fsp',)


def network(scale=1):
  """A DeepLab of a few channels."""
  widths = tuple(scale * width for width in few_scenes.WIDTHS)
  fields = {**few_scenes.SMALL, 'widths': widths}
  return models.make('deeplab_resnet10_small', 11, **fields)


@functools.cache
def features(is_equal):
  """Random features of a small DeepLab, and of a wider one or its like."""
  rng = np.random.default_rng(0)
  image = jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, 3), np.float32)

  def filled(leaf):
    return jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)

  feats = {}
  for name, scale in (('student', 1), ('teacher', 1 if is_equal else 2)):
    net = network(scale)

    def run(image, net=net, name=name):
      variables = step.variables_of(net, jax.random.key(0), image)
      mutable = ['batch_stats']
      return step.run(name, net, variables, image, train=True, mutable=mutable)[
        0
      ]

    feats[name] = jax.tree.map(filled, dict(jax.eval_shape(run, image)))
  return feats


def batch():
  """Labels of which a part does not count."""
  label = np.random.default_rng(1).integers(0, 11, (BATCH, SIZE, SIZE))
  label[:, :4] = 255
  index = np.arange(BATCH, dtype=np.int32)
  return {'label': label.astype(np.int32), 'index': index}


def terms_and_gradients(name, feats):
  """A function of the student's maps: terms, gradients, the adapters' too."""
  method = tiny.method(name, **ARGUMENTS.get(name, {}), task=TASK)
  taps = {k: v for k, v in feats['student'].items() if k != 'params'}

  def of_maps(taps):
    def total(taps, params):
      student = {**feats['student'], **taps}
      terms, _ = method.apply(
        {**variables, 'params': params},
        {**feats, 'student': student},
        batch(),
        rngs={'method': jax.random.key(1)},
        mutable=['metrics', 'batch_stats'],
      )
      return sum(terms.values()), terms

    variables = dict(method.init(jax.random.key(0), feats, batch()))
    variables.pop('metrics', None)
    params = variables.pop('params', {})
    return jax.grad(total, (0, 1), has_aux=True)(taps, params)

  return method, of_maps, taps


@pytest.mark.parametrize('name', DENSE)
def test_terms_and_gradients_of_a_dense_method_are_finite(name):
  method, of_maps, taps = terms_and_gradients(name, features(name in EQUAL))
  (maps, params), terms = jax.jit(of_maps)(taps)
  assert {*terms} == {*method.terms}
  for leaf in jax.tree.leaves((terms, maps, params)):
    assert np.isfinite(leaf).all()
  moved = [tap for tap, gradient in maps.items() if np.any(gradient)]
  compared = {student for _, student in method.pairs()}
  assert compared - {'logits'} <= {*moved}
  assert not np.any(np.asarray(maps['logits'])[:, :4])  # they do not count


@pytest.mark.parametrize('name', OTHERS)
def test_a_method_of_whole_images_is_refused_in_one_line(name):
  config = train_test.configuration(name).get_config('digits')
  config.data.name = 'scenes_segmentation'
  with pytest.raises(errors.UsageError) as caught:
    checks.check_method(config, TASK)
  assert f'method {name} reads one label' in str(caught.value)
  assert 'take one of ab, at, ' in str(caught.value)
