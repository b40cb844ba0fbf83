"""The PyTorch peers of the benchmark train what we train.

Both sides get the same weights, images, labels and random draws.
"""

import copy
import importlib
import json
import pathlib

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd_jax import models
from kd_jax.benchmark import case, pairing
from kd_jax.distill import build, optim, step
from kd_jax.models.pretrained import convert

torch = pytest.importorskip('torch')

BATCH, SIZE, CLASSES, IMAGES = 8, 16, 10, 40
# Of each method one case; of FPD also the one with one set of laterals.
CASES = {
  'kd': ('kd', None),
  'fpd, own laterals': ('fpd', None),
  'fpd, shared laterals': ('fpd', 'resnet8'),
  'ofd': ('ofd', None),
  'ffsd': ('ffsd', None),
  'pics': ('pics', None),
  'crd': ('crd', None),
}
NEGATIVES = 12


@pytest.fixture
def torch_peer(monkeypatch):
  """The module, imported as its process imports it."""
  root = pathlib.Path(pairing.__file__).parents[2]
  monkeypatch.syspath_prepend(str(root / 'benchmarks'))
  torch.manual_seed(0)
  return importlib.import_module('torch_peer')


class Both:
  """A configuration in JAX and in PyTorch, with the same weights."""

  def __init__(self, torch_peer, name, student=None):
    wanted = case.Wanted(
      student, 'resnet8', None, SIZE, CLASSES, BATCH, 1, IMAGES, 1
    )
    config = case.configured(name, wanted)
    if name == 'crd':
      config.method_args.negatives = NEGATIVES
    labels = np.arange(IMAGES) % CLASSES
    facts = {'num_classes': CLASSES, 'train_labels': labels}
    self.exp = build.phases_of(config, facts, IMAGES // BATCH)[0].exp
    given = pairing.arguments(config, self.exp, wanted, name)
    self.given = {**json.loads(json.dumps(given)), 'variant': 'eager'}
    self.theirs = torch_peer.Objective(self.given, labels)
    networks = dict(self.theirs.students.items())
    if self.theirs.teacher is not None:
      networks['teacher'] = self.theirs.teacher
    for network in networks.values():
      unlike_new(network)
    # Anew, as OFD's margins are the teacher's.
    self.theirs.method = importlib.import_module('torch_methods').make(
      self.given, networks, labels
    )
    unlike_new(self.theirs.method)
    self.batch = batch(labels)
    self.frozen = {
      n: converted(net, networks[n]) for n, net in self.exp.teachers.items()
    }
    made = jax.eval_shape(self._init)
    self.method_shapes = {'params': made.params['method']}
    self.method_shapes |= made.model_state['method']
    self.state = self._state(self.theirs)

  def _init(self):
    return step.init(self.exp, jnp.int32(0), self.frozen, self.batch)

  def _state(self, theirs):
    """Our state with the variables of the PyTorch modules."""
    found = {
      name: converted(network, theirs.students[name])
      for name, network in self.exp.students.items()
    }
    found['method'] = converted_method(self.method_shapes, theirs.method)
    params = {name: v.pop('params') for name, v in found.items()}
    return step.TrainState(
      step=jnp.int32(0),
      params=params,
      model_state=found,
      opt_state=None,
    )

  def ours(self, tx):
    """Our step with given weights: the state after it, and scalars."""

    def run(values):
      given = {n: (lambda _, v=v: v) for n, v in values.items()}
      exp = self.exp._replace(weights=given, tx=tx)
      state = self.state.replace(opt_state=tx.init(self.state.params))
      return step.train_step(exp, jnp.int32(0), state, self.frozen, self.batch)

    return jax.jit(run)

  def loss(self, values):
    """Theirs, and its gradients as a tree of ours."""
    theirs = copy.deepcopy(self.theirs)
    theirs.method.weights = values
    loss = theirs(self.torch_batch())
    loss.backward()
    with torch.no_grad():
      for parameter in theirs.parameters():
        if parameter.requires_grad:
          grad = parameter.grad
          parameter.copy_(0 * parameter if grad is None else grad)
    return loss.item(), self._state(theirs).params

  def torch_batch(self):
    found = {k: torch.from_numpy(v) for k, v in self.batch.items()}
    found['image'] = found['image'].permute(0, 3, 1, 2).contiguous()
    indices = ('label', 'index', 'contrast_index')
    return {k: v.long() if k in indices else v for k, v in found.items()}


def unlike_new(module):
  """Gives BatchNorms scales, biases and statistics, biases values."""
  with torch.no_grad():
    for one in module.modules():
      if isinstance(one, torch.nn.BatchNorm2d):
        one.weight.add_(0.3 * torch.randn_like(one.weight))
        one.bias.add_(0.3 * torch.randn_like(one.bias))
        one.running_mean.add_(0.1 * torch.randn_like(one.running_mean))
        one.running_var.mul_(0.5 + torch.rand_like(one.running_var))


def batch(labels):
  """Images, the positions of their labels, and some of other classes."""
  rng = np.random.default_rng(0)
  index = rng.permutation(IMAGES)[:BATCH].astype(np.int32)
  others = [
    rng.choice(np.flatnonzero(labels != labels[i]), NEGATIVES, replace=False)
    for i in index
  ]
  return {
    'image': rng.normal(size=(BATCH, SIZE, SIZE, 3)).astype(np.float32),
    'label': labels[index].astype(np.int32),
    'index': index,
    'contrast_index': np.insert(others, 0, index, axis=1).astype(np.int32),
  }


def converted(network, module):
  state = {k: v.detach().numpy() for k, v in module.state_dict().items()}
  return convert.convert(network, state)


def converted_method(shapes, module):
  """The method's variables: its modules are called as ours."""
  state = {k: v.detach().numpy() for k, v in module.state_dict().items()}
  found = {}
  for path, like in traverse_util.flatten_dict(shapes).items():
    *names, leaf = path[1:]
    value = state['.'.join([*names, convert.LEAVES.get(leaf, leaf)])]
    if leaf == 'kernel' and value.ndim == 2:
      value = value.T
    elif leaf == 'kernel' and names[0].startswith('decoder'):
      # A transposed convolution: [I,O,h,w], and its taps the other way round.
      value = value[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
    elif leaf == 'kernel':
      value = value.transpose(2, 3, 1, 0)
    assert value.shape == like.shape, path
    found[path] = jnp.asarray(value.copy())
  return {'params': {}, **traverse_util.unflatten_dict(found)}


def distance(ours, theirs):
  """How far theirs is from ours, of ours' length."""
  difference = optax.tree.norm(jax.tree.map(jnp.subtract, ours, theirs))
  return float(difference / optax.tree.norm(ours))


@pytest.mark.parametrize('stem', ['cifar', 'imagenet'])
def test_every_network_has_our_layers(torch_peer, stem):
  for name in torch_peer.torch_networks.SHAPES:
    network = torch_peer.torch_networks.ResNet(name, CLASSES, stem=stem)
    shapes = {
      key: tuple(value.shape)
      for key, value in network.state_dict().items()
      if not key.endswith('num_batches_tracked')
    }
    ours = models.make(name, CLASSES, stem=stem)
    layout = 'torchvision' if len(ours.stage_sizes) == 4 else ''
    assert shapes == convert.originals(ours, layout)


@pytest.mark.parametrize('name', CASES)
def test_losses_and_gradients_are_ours(torch_peer, name):
  both = Both(torch_peer, *CASES[name])
  terms = both.exp.method.terms
  found = both.ours(optax.trace(0.0))  # whose state is the gradients
  alone = [{n: float(n == term) for n in terms} for term in terms]
  for values in ({n: both.given['weights'][n] for n in terms}, *alone):
    state, scalars = found(values)
    loss, theirs = both.loss(values)
    # float32 over thousands of sums, in another order.
    np.testing.assert_allclose(loss, scalars['total'], rtol=1e-4)
    ours = state.opt_state.trace
    for group in ours:
      if not ours[group]:
        continue
      norms = [float(optax.tree.norm(g[group])) for g in (ours, theirs)]
      np.testing.assert_allclose(*norms, rtol=1e-3, atol=1e-7)
      if norms[0] > 1e-7:
        assert distance(ours[group], theirs[group]) < 1e-3


def test_memories_move_as_ours(torch_peer):
  both = Both(torch_peer, 'crd')
  state, _ = both.ours(optax.trace(0.0))({'ce': 0.0, 'kd': 0.0, 'crd': 1.0})
  both.theirs(both.torch_batch()).backward()
  both.theirs.method.after()
  for name, ours in state.model_state['method']['memory'].items():
    theirs = getattr(both.theirs.method, name)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_negatives_are_different_images_of_other_classes(torch_peer):
  del torch_peer
  torch_methods = importlib.import_module('torch_methods')
  labels = np.array([2, 0, 1, 0, 0, 2, 1, 0, 1, 2, 0, 1])  # 5, 4 and 3
  network = importlib.import_module('torch_networks').ResNet('resnet8', 3)
  method = torch_methods.CRD(
    {'student': network, 'teacher': network},
    labels,
    width=4,
    negatives=3,
    contrast_temperature=1.0,
    momentum=0.5,
    weights={},
    temperature=1.0,
  )
  draws = 2000
  together = np.zeros((3, len(labels), len(labels)), int)
  for _ in range(draws):
    for own, drawn in enumerate(method.drawn(torch.arange(3)).numpy()):
      assert len(set(drawn)) == 3
      together[own][np.ix_(drawn, drawn)] += 1
  for own, counts in enumerate(together):
    others = labels != own
    assert counts.sum() == counts[np.ix_(others, others)].sum()
    # Each pair as likely as any other, within 6 standard deviations.
    share = 3 / others.sum() * 2 / (others.sum() - 1)
    spread = 6 * (draws * share * (1 - share)) ** 0.5
    pairs = counts[np.ix_(others, others)][np.triu_indices(others.sum(), 1)]
    assert np.abs(pairs - draws * share).max() <= spread


def test_updates_follow_our_rules(torch_peer):
  both = Both(torch_peer, 'ffsd')
  values = both.given['weights']
  state, _ = both.ours(both.exp.tx)(values)
  optimizers = torch_peer.optimizers(
    both.theirs.trained(), both.given['rules'], None
  )
  assert [type(o).__name__ for o in optimizers] == ['SGD', 'Adam']
  both.theirs(both.torch_batch()).backward()
  for optimizer in optimizers:
    optimizer.step()
  before, theirs = both.state.params, both._state(both.theirs).params
  moves = [
    traverse_util.flatten_dict(jax.tree.map(jnp.subtract, p, before), sep='/')
    for p in (state.params, theirs)
  ]
  group = optim.grouping([rule[0] for rule in both.given['rules']])
  for number in range(3):
    ours, others = ({k: m[k] for k in m if group(k) == number} for m in moves)
    # Adam's first step has the size of the rate, whatever the gradient's.
    assert distance(ours, others) < (0.05 if number == 0 else 1e-3)


@pytest.mark.parametrize('name', ['fpd', 'ffsd', 'crd'])
def test_what_is_compiled_is_what_is_eager(torch_peer, name):
  both = Both(torch_peer, name)
  found = []
  for backend in (None, 'aot_eager'):  # all of torch.compile but its kernels
    objective = copy.deepcopy(both.theirs)
    run = torch.compile(objective, backend=backend) if backend else objective
    for _ in range(2):  # CRD's second step reads what its first one wrote
      objective.zero_grad()
      loss = run(both.torch_batch())
      loss.backward()
      objective.method.after()
    grads = [p.grad for p in objective.parameters() if p.grad is not None]
    found.append([loss.detach(), *grads, *objective.buffers()])
  torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)
