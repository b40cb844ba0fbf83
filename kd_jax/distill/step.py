"""The training step, the same for every method, network and mesh."""

from collections.abc import Callable, Collection, Mapping, Sequence
import types
from typing import Any, NamedTuple

from flax import struct
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from kd_jax import pytrees
from kd_jax.distill import averaging, batched, figures, layout, optim
from kd_jax.distill import images as images_lib
from kd_jax.features import PLAIN, Batch, Features, NetFeatures, Terms, known
from kd_jax.methods import base
from kd_jax.models import layers

Variables = Mapping[str, Any]
Start = Callable[[], Mapping[str, jax.Array]]  # see `first`
# The teachers' taps [N,...] f32 by the teacher's name and the tap's.
Taught = Mapping[str, Mapping[str, jax.Array]]


class Experiment(NamedTuple):
  """A static description of training: modules and functions, no arrays.

  Attributes:
    students: The trained networks by name.
    teachers: The frozen networks by name.
    method: The loss over the networks' features.
    weights: A schedule, from step to weight, for each of the method's terms.
    tx: The optimizer.
    trained: A function that says whether the parameter of a path, such as
      'student/fc/bias', is trained. A module's other collections (batch
      statistics, banks) do not change where its parameters are not trained.
    batch_students: Whether students of one architecture run as one network
      with a further axis. It changes results by rounding alone.
    accumulate_steps: The number of parts that a batch is split into. They are
      computed one after the other, before one update with the mean of their
      gradients. A part is a batch of its own to BatchNorm, whose running
      statistics move with each part, and to losses that compare the images of a
      batch.
    inputs: By network name, (scale [3], shift [3]). The network sees images *
      scale + shift, because it was trained with another normalisation.
    sizes: By network name, the height and width to which its images are
      resized, because it was trained on images of another size.
    learning_rate: A schedule, from step to rate, that each step reports; it
      changes nothing. None reports no rate.
    ema: The decay of the moving average of what is trained; 0 is none. See
      `averaging`.
    value_and_grad: What derives the objective; see `several.value_and_grad`.
  """

  students: dict[str, nn.Module]
  teachers: dict[str, nn.Module]
  method: base.Method
  weights: dict[str, optim.Schedule]
  tx: optax.GradientTransformation
  trained: Callable[[str], bool] = lambda path: True
  batch_students: bool = False
  accumulate_steps: int = 1
  inputs: Mapping[str, tuple[Sequence[float], Sequence[float]]] = (
    types.MappingProxyType({})
  )
  sizes: Mapping[str, int] = types.MappingProxyType({})
  learning_rate: optim.Schedule | None = None
  ema: float = 0.0
  value_and_grad: Callable[..., Any] = jax.value_and_grad


def seen_by(exp: Experiment, name: str, images: jax.Array) -> jax.Array:
  """Returns images as a network sees them: resized, with its normalisation.

  Args:
    exp: The experiment.
    name: The name of the network.
    images: Images [N,H,W,3] f32, normalised as in the data set.

  Returns:
    The images, [N,H,W,3] f32, or [N,S,S,3] f32 where the network has a size S.
  """
  return images_lib.seen(images, exp.sizes.get(name, 0), exp.inputs.get(name))


@struct.dataclass
class TrainState:
  """The state that training changes.

  Attributes:
    step: Steps done, [] i32.
    params: Parameters by network name; those of the method's adapters are under
      'method'.
    model_state: The other collections (batch statistics, banks), by the same
      names.
    opt_state: The optimizer's state.
    average: The moving average of what is trained; {} where there is none.
  """

  step: jax.Array
  params: dict[str, Any]
  model_state: dict[str, Any]
  opt_state: Any
  average: averaging.Average = struct.field(default_factory=dict)


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
  """Returns a network's features, and the collections that it changed.

  Args:
    name: The network's name, for error messages.
    network: A Linen module `(images, train) -> logits` that sows its taps.
    variables: Its 'params' and other collections.
    images: Normalised images [N,H,W,3] f32.
    train: Whether the network runs in training mode.
    mutable: The collections that it may change.
    rngs: Random keys by name.
  """
  logits, collections = network.apply(
    variables,
    images,
    train=train,
    rngs=rngs,
    mutable=['intermediates', *mutable],
  )
  changed: dict[str, Any] = dict(collections)
  taps = dict(changed.pop('intermediates', {}))
  taps.setdefault('logits', logits.astype(jnp.float32))
  return Features(name, {**taps, 'params': variables['params']}), changed


def fold(
  exp: Experiment, frozen: Mapping[str, Variables], images: jax.Array
) -> dict[str, Variables]:
  """Returns the teachers' variables, with constants that are computed once.

  A BatchNorm's running statistics are folded into the convolution before it
  (see `models.layers.FOLDED`), which saves a pass over each feature map. The
  original variables are kept, since methods read them.

  Args:
    exp: The experiment.
    frozen: The teachers' variables by name.
    images: Images [N,H,W,3] f32, of which only the shape matters.
  """
  folded: dict[str, Variables] = {}
  for name, network in exp.teachers.items():
    _, new_collections = run(
      name,
      network,
      frozen[name],
      images_lib.resized(images, exp.sizes.get(name, 0)),
      train=False,
      mutable=(layers.FOLDED,),
    )
    folded[name] = {**frozen[name], **new_collections}
  return folded


def variables_of(
  network: nn.Module, key: jax.Array, images: jax.Array
) -> dict[str, Any]:
  """Returns a network's initial variables, without taps.

  Args:
    network: The network.
    key: The random key.
    images: Images [N,H,W,3] f32, of which only the shape matters.
  """
  variables = dict(network.init(key, images, train=True))
  variables.pop('intermediates', None)
  return {'params': {}, **variables}


def init(
  exp: Experiment,
  seed: jax.Array,
  frozen: Mapping[str, Variables],
  batch: Batch,
  start: Mapping[str, jax.Array] = types.MappingProxyType({}),
) -> TrainState:
  """Returns the state before step 0; see `first`."""
  return first(exp, seed, frozen, batch, start)[0]


def first(
  exp: Experiment,
  seed: jax.Array,
  frozen: Mapping[str, Variables],
  batch: Batch,
  start: Mapping[str, jax.Array] = types.MappingProxyType({}),
) -> tuple[TrainState, NetFeatures]:
  """Returns the state before step 0, and the features that adapters start from.

  A student's first variables depend on nothing but the seed and `start`.

  Args:
    exp: The experiment.
    seed: The seed, [] i32.
    frozen: The teachers' variables by name.
    batch: Any batch; only its shapes matter to networks.
    start: Values that all students begin with, by path, such as
      'params/fc/kernel'; the others are random.

  Returns:
    The state, and the features of the students in training mode and of the
    teachers.
  """
  key = jax.random.key(seed)
  variables, feats = {}, {}
  for i, (name, network) in enumerate(exp.students.items()):
    own = variables_of(network, jax.random.fold_in(key, i), batch['image'])
    own = jax.tree.map_with_path(
      lambda path, x: start.get(pytrees.path_name(path), x), own
    )
    variables[name] = own
    feats[name], _ = run(
      name,
      network,
      own,
      batch['image'],
      train=True,
      mutable=[c for c in own if c != 'params'],
      rngs=rngs(key),
    )
  feats |= teacher_features(exp, frozen, batch)
  method = dict(exp.method.init(rngs(key), feats, batch))
  method.pop('metrics', None)
  variables['method'] = method
  params = {n: dict(v).pop('params', {}) for n, v in variables.items()}
  model_state = {
    name: {c: value for c, value in v.items() if c != 'params'}
    for name, v in variables.items()
  }
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    model_state=model_state,
    opt_state=exp.tx.init(params),
    average=averaging.start(params, model_state) if exp.ema else {},
  )
  return state, feats


def train_step(
  exp: Experiment,
  seed: jax.Array,
  state: TrainState,
  frozen: Mapping[str, Variables],
  batch: Batch,
  taught: Taught | None = None,
) -> tuple[TrainState, Terms]:
  """Updates all that is trained, by one step.

  Args:
    exp: The experiment.
    seed: The seed, [] i32; together with state.step it determines all
      randomness.
    state: The state before the step.
    frozen: The teachers' variables by name, which are neither differentiated
      nor changed.
    batch: The global batch.
    taught: The teachers' features for the batch where they were computed
      before; None computes them.

  Returns:
    The state after the step, and scalars by name: 'total' (the objective),
    'loss/<term>' (unweighted), 'weighted/<term>', 'grad_norm',
    'method/<measure>'; the task's headline metric over the batch, such as
    'top1' in percent, if the method deploys logits that the step computes
    anyway; 'learning_rate', if the experiment has one.
  """
  key = jax.random.fold_in(jax.random.key(seed), state.step)
  params = state.params

  def one(model_state, given):
    key, part = given
    return _gradient(exp, params, model_state, state.step, frozen, key, *part)

  whole = batch, taught
  if exp.accumulate_steps == 1:
    model_state, (grads, scalars) = one(state.model_state, (key, whole))
  else:
    parts = layout.split(whole, exp.accumulate_steps)
    keys = jax.random.split(key, exp.accumulate_steps)
    model_state, stacked = jax.lax.scan(one, state.model_state, (keys, parts))
    grads, scalars = jax.tree.map(lambda x: x.mean(axis=0), stacked)
  updates, opt_state = exp.tx.update(grads, state.opt_state, params)
  new_params = optax.apply_updates(params, updates)
  new_state = TrainState(
    step=state.step + 1,
    params=new_params,
    model_state=model_state,
    opt_state=opt_state,
    average=averaging.updated(
      state.average, exp.ema, state.step, new_params, model_state
    ),
  )
  shown = {**scalars, 'grad_norm': optax.tree.norm(grads)}
  if exp.learning_rate is not None:
    shown['learning_rate'] = exp.learning_rate(state.step)
  return new_state, shown


def _gradient(
  exp: Experiment,
  params: dict[str, Any],
  model_state: dict[str, Any],
  step: jax.Array,
  frozen: Mapping[str, Variables],
  key: jax.Array,
  batch: Batch,
  taught: Taught | None,
) -> tuple[dict[str, Any], tuple[Any, Terms]]:
  """Returns the changed collections of one batch, its gradients and scalars.

  The gradient of a parameter that is not trained is 0.
  """
  teachers = teacher_features(exp, frozen, batch, taught)

  def objective(params):
    feats, changed = dict(teachers), {}
    others = (exp.inputs, exp.sizes)
    for names in batched.groups(exp.students, others, exp.batch_students):

      def one(variables: Variables, name: str = names[0]) -> Any:
        return run(
          name,
          exp.students[name],
          variables,
          seen_by(exp, name, batch['image']),
          train=True,
          mutable=[kind for kind in variables if kind != 'params'],
          rngs=rngs(key),
        )

      given = [{'params': params[n], **model_state[n]} for n in names]
      results = batched.apply(one, given)
      for name, (taps, moved) in zip(names, results, strict=True):
        feats[name] = Features(name, {**taps, 'params': params[name]})
        changed[name] = moved
    collections = model_state['method']
    variables = {'params': params['method'], **collections}
    terms, changed['method'] = exp.method.apply(
      variables,
      feats,
      batch,
      rngs=rngs(key),
      mutable=['metrics', *collections],
    )
    weighted = {n: exp.weights[n](step) * loss for n, loss in terms.items()}
    total = sum(weighted.values(), jnp.zeros(()))
    metric = figures.headline(exp.method, variables, feats, batch)
    return total, (terms, weighted, changed, metric)

  grad = exp.value_and_grad(objective, has_aux=True)
  (total, (terms, weighted, changed, metric)), grads = grad(params)
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
      **metric,
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
  """Runs several training steps in one dispatch.

  S steps equal S calls with one step each, bit for bit where XLA computes an
  operation in the same way inside a loop. XLA:CPU does not for the weight
  gradients of convolutions: inside a loop they are 10 to 16 times slower, and
  differ by rounding.

  Args:
    exp: The experiment.
    assemble: A function of (arrays, feed, key) that returns the batch of a
      step.
    seed: See `train_step`.
    state: See `train_step`.
    frozen: See `train_step`.
    arrays: The data on the devices.
    feeds: The host's feeds, stacked along a first axis [S].

  Returns:
    The state after the last step, and the scalars of every step, [S] each.
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
  """Returns logits [N,K] by name, as the method predicts them.

  The first of them is deployed. Under jit, whatever the prediction does not
  read is pruned, including the teacher.
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
  """Returns the features of every network in evaluation mode."""
  feats = teacher_features(exp, frozen, batch)
  for name, network in exp.students.items():
    variables = {'params': params[name], **model_state[name]}
    image = seen_by(exp, name, batch['image'])
    feats[name], _ = run(name, network, variables, image, train=False)
  return feats


def teacher_features(
  exp: Experiment,
  frozen: Mapping[str, Variables],
  batch: Batch,
  taught: Taught | None = None,
) -> NetFeatures:
  """Returns the teachers' features for a batch; no gradient flows through them.

  If the batch has a teacher's logits, they are its only feature. `taught` are
  the taps of the others where they were computed before.
  """
  feats = {}
  for name, network in exp.teachers.items():
    if known(name) in batch:
      feats[name] = Features(name, {'logits': batch[known(name)]})
      continue
    if taught is not None:
      params = frozen[name]['params']
      feats[name] = Features(name, {**taught[name], 'params': params})
      continue
    feats[name], _ = run(
      name,
      network,
      frozen[name],
      seen_by(exp, name, batch.get(PLAIN, batch['image'])),
      train=False,
    )
  return jax.lax.stop_gradient(feats)


def _moved(exp: Experiment, old: Any, new: Any) -> Any:
  """Returns `new` collections where parameters are trained, else `old` ones."""

  def choose(path, before, after):
    group, _, *rest = pytrees.path_name(path).split('/')
    return after if exp.trained('/'.join((group, *rest))) else before

  return jax.tree.map_with_path(choose, old, new)


def rngs(key: jax.Array) -> dict[str, jax.Array]:
  """Returns the random keys of networks and of the method, by their names."""
  names = ('params', 'method', 'dropout')
  return {rng: jax.random.fold_in(key, 2 + i) for i, rng in enumerate(names)}
