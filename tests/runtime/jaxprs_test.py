"""What a program reads and computes, whatever the backend."""

import jax
import jax.numpy as jnp
import pytest

from kd_jax import models
from kd_jax.runtime import jaxprs, sharding

# Millions of multiply-adds of one image of 224 pixels, as torchvision 0.20
# publishes them with its weights (`weights.meta['_ops']`, in thousands there).
TORCHVISION = {
  'resnet18': 1814,
  'resnet34': 3664,
  'resnet50': 4089,
  'resnet101': 7801,
  'vgg11_imagenet': 7609,
}


def flops(function, *shapes):
  args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
  return jaxprs.flops(jax.make_jaxpr(function)(*args))


def convolution(images, kernel, **more):
  return jax.lax.conv_general_dilated(
    images,
    kernel,
    window_strides=more.pop('strides', (1, 1)),
    padding=more.pop('padding', 'SAME'),
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    **more,
  )


@pytest.mark.parametrize('name', TORCHVISION)
def test_networks_have_twice_torchvisions_multiply_adds(name):
  found = models.describe(models.make(name, 1000), 224)
  assert found.flops / 2e6 == pytest.approx(TORCHVISION[name], rel=5e-4)


def test_products_count_two_for_each_multiply_add():
  assert flops(jnp.matmul, (3, 5, 7), (3, 7, 11)) == 2 * 3 * 5 * 7 * 11


def test_a_strided_convolution_and_both_its_gradients_cost_the_same():
  shapes = (2, 8, 8, 4), (3, 3, 4, 6)

  def strided(images, kernel):
    return convolution(images, kernel, strides=(2, 2), padding=((1, 1), (1, 1)))

  forward = 2 * (2 * 4 * 4 * 6) * 9 * 4
  assert flops(strided, *shapes) == forward
  for argument in (0, 1):

    def gradient(images, kernel, cotangent, argument=argument):
      return jax.vjp(strided, images, kernel)[1](cotangent)[argument]

    assert flops(gradient, *shapes, (2, 4, 4, 6)) == forward


def test_a_grouped_convolution_reads_a_groups_channels():
  def depthwise(images, kernel):
    return convolution(images, kernel, feature_group_count=4)

  assert flops(depthwise, (1, 8, 8, 4), (3, 3, 1, 4)) == 2 * 8 * 8 * 4 * 9


def test_what_the_results_do_not_need_is_free_in_nested_calls_too():
  @jax.jit
  def both(x, y):
    return x @ x, y @ y

  assert flops(lambda x, y: both(x, y)[0], (4, 4), (9, 9)) == 2 * 4**3
  program = jax.make_jaxpr(lambda x, y: both(x, y)[0])(
    jnp.zeros((4, 4)), jnp.zeros((9, 9))
  )
  live, used = jaxprs.pruned(program)
  assert used == [True, False]
  assert len(live.jaxpr.invars) == 1
  (result,) = jax.extend.core.jaxpr_as_fun(live)(jnp.eye(4))
  assert (result == jnp.eye(4)).all()


def test_loops_count_their_rounds_and_branches_their_largest():
  def chain(x):
    return jax.lax.scan(lambda x, _: (x @ x, None), x, length=5)[0]

  assert flops(chain, (4, 4)) == 5 * 2 * 4**3

  def branch(x):
    return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

  assert flops(branch, (4, 4)) == 2 * 2 * 4**3


def test_a_program_over_a_mesh_counts_every_device():
  mesh = sharding.make_mesh(4)
  part = jax.sharding.PartitionSpec('data')
  product = jax.shard_map(
    lambda x: x @ x.T @ x, mesh=mesh, in_specs=part, out_specs=part
  )
  assert flops(product, (8, 3)) == 4 * 2 * (2 * 2 * 2 * 3)


def test_custom_gradients_count_once():
  @jax.custom_vjp
  def square(x):
    return x @ x

  square.defvjp(lambda x: (x @ x, x), lambda x, g: (g @ x.T + x.T @ g,))
  assert flops(square, (4, 4)) == 2 * 4**3
  assert flops(jax.grad(lambda x: square(x).sum()), (4, 4)) == 2 * 2 * 4**3


@pytest.mark.parametrize(
  'error',
  [NotImplementedError('no'), jax.errors.JaxRuntimeError('UNIMPLEMENTED: no')],
)
def test_what_a_backend_does_not_tell_is_none(error):
  def ask():
    raise error

  assert jaxprs.told(ask) is None
  assert jaxprs.told(lambda: {'flops': 1.0}) == {'flops': 1.0}


def test_a_device_that_tells_nothing_of_its_memory_has_none():
  class Device:
    def memory_stats(self):
      return None

  assert jaxprs.memory(Device()) == {}
