"""The one training step: every method, every network, every mesh."""

from collections.abc import Callable, Collection, Mapping, Sequence
import dataclasses
import functools
import types
from typing import Any, NamedTuple

from flax import struct
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from kd_jax import models, pytrees
from kd_jax.distill import optim
from kd_jax.features import Batch, Features, NetFeatures, Terms, known
from kd_jax.methods import base
from kd_jax.models import layers

Variables = Mapping[str, Any]


class Experiment(NamedTuple):
  """All that is static: modules and functions, no arrays.

  Attributes:
    students: the trained networks by name.
    teachers: the frozen networks by name.
    method: the loss over their features.
    weights: a schedule (step to weight) for each of the method's terms.
    tx: the optimizer.
    trained: whether the parameter of this path, such as 'student/fc/bias', is
      trained. A module's other collections (batch statistics, banks) stand
      still where its parameters do.
    accumulate_steps: parts that a batch is computed in, one after the other,
      before one update with the mean of their gradients. A part is a batch of
      its own to BatchNorm, whose running statistics move with each, and to
      losses that compare the images of a batch.
    inputs: by network name, (scale [3], shift [3]): the network sees images *
      scale + shift, where it was trained with another normalisation.
  """

  students: dict[str, nn.Module]
  teachers: dict[str, nn.Module]
  method: base.Method
  weights: dict[str, optim.Schedule]
  tx: optax.GradientTransformation
  trained: Callable[[str], bool] = lambda path: True
  accumulate_steps: int = 1
  inputs: Mapping[str, tuple[Sequence[float], Sequence[float]]] = (
    types.MappingProxyType({})
  )


def seen_by(exp: Experiment, name: str, images: jax.Array) -> jax.Array:
  """Images [N,H,W,3] f32 as the network of this name sees them."""
  if name not in exp.inputs:
    return images
  scale, shift = (
    jnp.asarray(x, images.dtype).reshape(1, 1, 1, 3) for x in exp.inputs[name]
  )
  return images * scale + shift


@struct.dataclass
class TrainState:
  """All that training changes.

  Attributes:
    step: steps done, i32.
    params: by network name, and of the method's adapters under 'method'.
    model_state: other collections (batch statistics, banks), likewise.
    opt_state: the optimizer's.
  """

  step: jax.Array
  params: dict[str, Any]
  model_state: dict[str, Any]
  opt_state: Any


def run(
  name: str,
  network: nn.Module,
  variables: Variables,
  images: jax.Array,
  *,
  train: bool,
  mutable: Collection[str] = (),
  rngs: dict[str, jax.Array] | None = None,
) -> tuple[Features, dict[str, Any]]:
  """One network's features, and the collections it changed.

  Args:
    name: the network's name, for error messages.
    network: any Linen module `(images, train) -> logits` that sows its taps.
    variables: its 'params' and other collections.
    images: [N,H,W,3] f32, normalised.
    train: the network's mode.
    mutable: the collections that it may change.
    rngs: random keys by name.
  """
  apply = _kept(_apply)(network, train, tuple(mutable))
  logits, other = apply(variables, images, rngs)
  changed: dict[str, Any] = dict(other)
  taps = dict(changed.pop('intermediates', {}))
  taps.setdefault('logits', logits.astype(jnp.float32))
  return Features(name, {**taps, 'params': variables['params']}), changed


@functools.cache
def _kept(make: Callable[..., Any]) -> Callable[..., Any]:
  """`make`, whose results for the last networks are kept.

  Nothing is kept of a network that cannot be a key, with a list in a field, or
  that is a function, which may read what changes.
  """

  @functools.lru_cache(maxsize=256)
  def kept(kinds, network, *args):
    del kinds  # 1 equals 1.0
    return make(network, *args)

  def get(network, *args):
    try:
      hash(network)
    except TypeError:
      return make(network, *args)
    if isinstance(network, models.Function):
      return make(network, *args)
    fields = dataclasses.fields(network)
    kinds = tuple(type(getattr(network, each.name)) for each in fields)
    return kept(kinds, network, *args)

  return get


def _apply(network: nn.Module, train: bool, mutable: tuple[str, ...]) -> Any:
  """The network's `apply`, which Python walks through once for equal shapes.

  A run traces each network in ten places and more. It is inlined: the program
  is the same.
  """

  def apply(variables, images, rngs):
    return network.apply(
      variables,
      images,
      train=train,
      rngs=rngs,
      mutable=['intermediates', *mutable],
    )

  return jax.jit(apply, inline=True)


def fold(
  exp: Experiment, frozen: Mapping[str, Variables], images: jax.Array
) -> dict[str, Variables]:
  """The teachers' variables with what is made of them alone, computed once.

  A BatchNorm's running statistics go into the convolution before it (see
  `models.layers.FOLDED`): a pass over each map less. What they are made of
  stays, since methods read it.

  Args:
    exp: the experiment.
    frozen: the teachers' variables by name.
    images: [N,H,W,3] f32, of which only the shape matters.
  """
  found: dict[str, Variables] = {}
  for name, network in exp.teachers.items():
    _, made = run(
      name, network, frozen[name], images, train=False, mutable=(layers.FOLDED,)
    )
    found[name] = {**frozen[name], **made}
  return found


def variables_of(
  network: nn.Module, key: jax.Array, images: jax.Array
) -> dict[str, Any]:
  """A network's first variables, taps left out; images [N,H,W,3] f32."""
  return _kept(_init)(network)(key, images)


def _init(network: nn.Module) -> Any:
  """The network's `init`, likewise."""

  def init(key, images):
    made = dict(network.init(key, images, train=True))
    made.pop('intermediates', None)
    return {'params': {}, **made}

  return jax.jit(init, inline=True)


def init(
  exp: Experiment,
  seed: jax.Array,
  frozen: Mapping[str, Variables],
  batch: Batch,
) -> TrainState:
  """The state before step 0; a student's depends on nothing but the seed.

  Args:
    exp: the experiment.
    seed: i32.
    frozen: the teachers' variables by name.
    batch: any batch; only its shapes matter to networks.
  """
  key = jax.random.key(seed)
  variables, feats = {}, {}
  for i, (name, network) in enumerate(exp.students.items()):
    made = variables_of(network, jax.random.fold_in(key, i), batch['image'])
    variables[name] = made
    feats[name], _ = run(
      name,
      network,
      made,
      batch['image'],
      train=True,
      mutable=[c for c in made if c != 'params'],
      rngs=_rngs(key),
    )
  feats |= teacher_features(exp, frozen, batch)
  method = dict(exp.method.init(_rngs(key), feats, batch))
  method.pop('metrics', None)
  variables['method'] = method
  params = {n: dict(v).pop('params', {}) for n, v in variables.items()}
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    model_state={
      name: {c: value for c, value in v.items() if c != 'params'}
      for name, v in variables.items()
    },
    opt_state=exp.tx.init(params),
  )


def train_step(
  exp: Experiment,
  seed: jax.Array,
  state: TrainState,
  frozen: Mapping[str, Variables],
  batch: Batch,
) -> tuple[TrainState, Terms]:
  """One update of everything that is trained.

  Args:
    exp: the experiment.
    seed: i32; with state.step it decides all randomness.
    state: what is trained.
    frozen: the teachers' variables by name: neither differentiated nor changed.
    batch: the global batch.

  Returns:
    The state after the step, and scalars by name: 'total' (the objective),
    'loss/<term>' (raw), 'weighted/<term>', 'grad_norm', 'method/<measure>'.
  """
  key = jax.random.fold_in(jax.random.key(seed), state.step)
  params = state.params

  def one(model_state, given):
    key, part = given
    return _gradient(exp, params, model_state, state.step, frozen, key, part)

  if exp.accumulate_steps == 1:
    model_state, (grads, scalars) = one(state.model_state, (key, batch))
  else:
    parts = _split(batch, exp.accumulate_steps)
    keys = jax.random.split(key, exp.accumulate_steps)
    model_state, each = jax.lax.scan(one, state.model_state, (keys, parts))
    grads, scalars = jax.tree.map(lambda x: x.mean(axis=0), each)
  updates, opt_state = exp.tx.update(grads, state.opt_state, params)
  new_state = TrainState(
    step=state.step + 1,
    params=optax.apply_updates(params, updates),
    model_state=model_state,
    opt_state=opt_state,
  )
  return new_state, {**scalars, 'grad_norm': optax.tree.norm(grads)}


def _split(batch: Batch, count: int) -> Batch:
  """[N,...] as [count,N/count,...]; every part lies on all devices."""

  def split(x):
    parts = x.reshape(x.shape[0] // count, count, *x.shape[1:])
    return jnp.swapaxes(parts, 0, 1)

  return jax.tree.map(split, batch)


def _gradient(
  exp: Experiment,
  params: dict[str, Any],
  model_state: dict[str, Any],
  step: jax.Array,
  frozen: Mapping[str, Variables],
  key: jax.Array,
  batch: Batch,
) -> tuple[dict[str, Any], tuple[Any, Terms]]:
  """The other collections after one batch, its gradients and scalars.

  The gradient of what is not trained is 0.
  """
  teachers = teacher_features(exp, frozen, batch)

  def objective(params):
    feats, changed = dict(teachers), {}
    for name, network in exp.students.items():
      other = model_state[name]
      feats[name], changed[name] = run(
        name,
        network,
        {'params': params[name], **other},
        seen_by(exp, name, batch['image']),
        train=True,
        mutable=list(other),
        rngs=_rngs(key),
      )
    other = model_state['method']
    terms, changed['method'] = exp.method.apply(
      {'params': params['method'], **other},
      feats,
      batch,
      rngs=_rngs(key),
      mutable=['metrics', *other],
    )
    weighted = {n: exp.weights[n](step) * v for n, v in terms.items()}
    total = sum(weighted.values(), jnp.zeros(()))
    return total, (terms, weighted, changed)

  grad = jax.value_and_grad(objective, has_aux=True)
  (total, (terms, weighted, changed)), grads = grad(params)
  measures = changed['method'].pop('metrics', {})

  def only_trained(path, leaf):
    trained = exp.trained(pytrees.path_name(path))
    return leaf if trained else jnp.zeros_like(leaf)

  return _moved(exp, model_state, changed), (
    jax.tree.map_with_path(only_trained, grads),
    {
      'total': total,
      **{f'loss/{name}': value for name, value in terms.items()},
      **{f'weighted/{name}': value for name, value in weighted.items()},
      **{f'method/{name}': value for name, value in measures.items()},
    },
  )


def train_steps(
  exp: Experiment,
  assemble: Callable[..., Batch],
  seed: jax.Array,
  state: TrainState,
  frozen: Mapping[str, Variables],
  arrays: Any,
  feeds: Any,
) -> tuple[TrainState, Terms]:
  """Several steps in one dispatch.

  Args:
    exp: the experiment.
    assemble: (arrays, feed, key) to the batch of one step.
    seed: as in `train_step`.
    state: as in `train_step`.
    frozen: as in `train_step`.
    arrays: the data that lives on the device.
    feeds: what the host gives to each step, stacked along a first axis [S].

  Returns:
    The state, and the scalars of every step, [S] each. S steps equal S calls
    with one step each, bit for bit where XLA computes an operation the same
    way inside a loop. XLA:CPU does not for the weight gradients of
    convolutions: there it is 10 to 16 times slower, and differs by rounding.
  """

  def one(state, feed):
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    batch = assemble(arrays, feed, jax.random.fold_in(key, 1))
    return train_step(exp, seed, state, frozen, batch)

  if jax.tree.leaves(feeds)[0].shape[0] == 1:
    state, terms = one(state, jax.tree.map(lambda x: x[0], feeds))
    return state, jax.tree.map(lambda x: x[None], terms)
  return jax.lax.scan(one, state, feeds)


def predict_step(
  exp: Experiment,
  params: dict[str, Any],
  model_state: dict[str, Any],
  frozen: Mapping[str, Variables],
  batch: Batch,
) -> dict[str, jax.Array]:
  """Logits [N,K] by name, as the method predicts; the first is deployed.

  Whatever the prediction does not read is pruned under jit, the teacher too.
  """
  feats = features_of(exp, params, model_state, frozen, batch)
  variables = {'params': params['method'], **model_state['method']}
  logits: Any = exp.method.apply(variables, feats, method='predict')
  return logits


def features_of(
  exp: Experiment,
  params: dict[str, Any],
  model_state: dict[str, Any],
  frozen: Mapping[str, Variables],
  batch: Batch,
) -> NetFeatures:
  """Every network's features in evaluation mode."""
  feats = teacher_features(exp, frozen, batch)
  for name, network in exp.students.items():
    variables = {'params': params[name], **model_state[name]}
    image = seen_by(exp, name, batch['image'])
    feats[name], _ = run(name, network, variables, image, train=False)
  return feats


def all_finite(tree: Any) -> jax.Array:
  """Whether no float in the tree is NaN or infinite, bool []."""
  leaves = [
    x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)
  ]
  return jnp.stack([jnp.isfinite(x).all() for x in leaves]).all()


def teacher_features(
  exp: Experiment, frozen: Mapping[str, Variables], batch: Batch
) -> NetFeatures:
  """The frozen networks' features, which nothing differentiates.

  Of one whose logits the batch has, they are all there is.
  """
  feats = {}
  for name, network in exp.teachers.items():
    if known(name) in batch:
      feats[name] = Features(name, {'logits': batch[known(name)]})
      continue
    feats[name], _ = run(
      name,
      network,
      frozen[name],
      seen_by(exp, name, batch['image']),
      train=False,
    )
  return jax.lax.stop_gradient(feats)


def known_logits(
  exp: Experiment, frozen: Mapping[str, Variables], batch: Batch
) -> Batch:
  """The teachers' logits, [N,K] f32 each, as a batch has them."""
  feats = teacher_features(exp, frozen, batch)
  return {known(name): each['logits'] for name, each in feats.items()}


def _moved(exp: Experiment, old: Any, new: Any) -> Any:
  """`new` collections where parameters are trained, else `old` ones."""

  def choose(path, before, after):
    group, _, *rest = pytrees.path_name(path).split('/')
    return after if exp.trained('/'.join((group, *rest))) else before

  return jax.tree.map_with_path(choose, old, new)


def _rngs(key: jax.Array) -> dict[str, jax.Array]:
  names = ('params', 'method', 'dropout')
  return {n: jax.random.fold_in(key, 2 + i) for i, n in enumerate(names)}
