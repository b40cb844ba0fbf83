"""The PyTorch peers of segmentation and detection train what we train."""

import pathlib
import re

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kd_jax import models
from kd_jax.benchmark import case, pairing
from kd_jax.distill import step
from kd_jax.models.pretrained import convert
from tests.benchmark import torch_peer_test

torch = pytest.importorskip('torch')
torch_peer = torch_peer_test.torch_peer  # the fixture

BATCH, SIZE, CLASSES = 2, 48, 5
DENSE = pathlib.Path(pairing.__file__).parents[2] / 'benchmarks/dense.py'
RECIPES = {
  'segmentation': ('deeplab_resnet10_small', 'deeplab_resnet18_small'),
  'detection': ('ssd48_resnet10', 'ssd48_resnet18'),
}
HEADS = {'offsets': 'loc', 'logits': 'conf'}


def converted(network, module):
  """Our variables of a PyTorch network's weights."""
  if convert.layouts_lib.layouts(network):
    state = module.state_dict()
    state.pop('priors', None)
    return convert.convert(network, {k: v.numpy() for k, v in state.items()})
  return of_ssd_resnet(convert.shapes(network), module.state_dict())


def of_ssd_resnet(shapes, state):
  """The same of an SSD with a ResNet, which has no released code."""
  found = {}
  for path, like in traverse_util.flatten_dict(shapes).items():
    *names, leaf = path[1:]
    name = re.sub(
      r'stage(\d+)_block(\d+)',
      lambda m: f'layer{m[1]}.{int(m[2]) - 1}',
      '.'.join(names),
    )
    name = name.replace('shortcut_conv', 'downsample.0')
    name = name.replace('shortcut_bn', 'downsample.1')
    name = re.sub(
      r'(offsets|logits)(\d+)',
      lambda m: f'{HEADS[m[1]]}.{int(m[2]) - 1}',
      name,
    )
    value = state[f'{name}.{convert.LEAVES[leaf]}'].numpy()
    value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    assert value.shape == like.shape, path
    found[path] = jnp.asarray(value.copy())
  return traverse_util.unflatten_dict(found)


def objective(torch_peer, given):
  """The networks and the method of a peer, unlike new ones."""
  labels = np.zeros(4, int)
  found = torch_peer.Objective(given, labels)
  networks = {'student': found.students['student'], 'teacher': found.teacher}
  for network in networks.values():
    torch_peer_test.unlike_new(network)
  # Made after that, as OFD's margins are the teacher's.
  supervised = found.method.supervised
  found.method = torch_peer.torch_methods.make(given, networks, labels)
  found.method.supervised = supervised
  return found


def gradients(exp, theirs, batch):
  """Our loss and the length of its gradient, with the weights of theirs."""
  frozen = {'teacher': converted(exp.teachers['teacher'], theirs.teacher)}
  student = converted(exp.students['student'], theirs.students['student'])
  shapes = jax.eval_shape(lambda: step.init(exp, jnp.int32(0), frozen, batch))
  method = torch_peer_test.converted_method(
    {'params': shapes.params['method'], **shapes.model_state['method']},
    theirs.method,
  )
  params = {'student': student.pop('params'), 'method': method.pop('params')}
  exp = exp._replace(tx=optax.trace(0.0))  # whose state is the gradients
  state = step.TrainState(
    step=jnp.int32(0),
    params=params,
    model_state={'student': student, 'method': method},
    opt_state=exp.tx.init(params),
  )
  after, scalars = jax.jit(
    lambda: step.train_step(exp, jnp.int32(0), state, frozen, batch)
  )()
  return scalars['total'], float(optax.tree.norm(after.opt_state.trace))


@pytest.mark.parametrize('name', RECIPES)
def test_the_first_loss_and_its_gradients_are_ours(torch_peer, name):
  wanted = case.Wanted(*RECIPES[name], None, SIZE, CLASSES, BATCH, 1, 4, 1)
  config = case.configured(f'{DENSE}:{name}', wanted)
  exp = case.experiment(config, wanted)
  given = pairing.arguments(config, exp, wanted, name) | {'variant': 'eager'}
  theirs = objective(torch_peer, given)
  targets = case.targets(name, wanted)
  others = torch_peer.torch_dense.targets(name, 4, CLASSES, SIZE)
  for key, value in others.items():
    np.testing.assert_array_equal(value, targets[key])
  image = np.random.default_rng(0).normal(size=(BATCH, SIZE, SIZE, 3))
  batch = {
    'image': image.astype(np.float32),
    'index': np.arange(BATCH, dtype=np.int32),
    **{key: value[:BATCH] for key, value in targets.items()},
  }
  batch['label'] = batch['label'].astype(np.int32)
  ours, norm = gradients(exp, theirs, batch)
  tensors = {key: torch.from_numpy(value) for key, value in batch.items()}
  tensors['label'] = tensors['label'].long()
  tensors['image'] = tensors['image'].permute(0, 3, 1, 2).contiguous()
  loss = theirs(tensors)
  loss.backward()
  # float32 over thousands of sums, in another order.
  np.testing.assert_allclose(loss.item(), ours, rtol=1e-4)
  squares = [
    p.grad.square().sum() for p in theirs.parameters() if p.grad is not None
  ]
  np.testing.assert_allclose(float(sum(squares)) ** 0.5, norm, rtol=1e-3)


def test_every_dense_network_has_our_parameters(torch_peer):
  for name in torch_peer.torch_dense.NAMES:
    network = torch_peer.torch_dense.make(name, CLASSES)
    shapes = convert.shapes(models.make(name, CLASSES))['params']
    count = sum(x.size for x in jax.tree.leaves(shapes))
    assert count == sum(p.numel() for p in network.parameters()), name
