"""Rewriting of an ONNX graph, so that runtimes and quantisers understand it.

jax2onnx writes what JAX computes: layouts are changed before and behind every
convolution, kernels are transposed and scales of BatchNorm are computed in the
graph. onnxruntime's basic rules, which are exact up to rounding and write
standard operators only, fold these constants, fold BatchNorm into the
convolution before it, and cancel changes of the layout. So kernels become
initializers, without which static quantisation passes over a convolution.
"""

import collections
import pathlib
import tempfile
from typing import Any

_TO_NCHW, _TO_NHWC = [0, 3, 1, 2], [0, 2, 3, 1]


def optimised(content: bytes) -> bytes:
  """Returns an ONNX file that computes the same with fewer operators.

  Args:
    content: The file's content, of images [N,H,W,C].

  Raises:
    Exception: onnx or onnxruntime refuses the file; they share no class.
  """
  import onnx

  model = onnx.ModelProto.FromString(content)
  _reduce_in_nchw(model)
  model = _by_onnxruntime(model)
  _scale_in_nchw(model)
  _add_in_gemm(model)
  model = _by_onnxruntime(model)
  used = {node.domain for node in model.graph.node}
  for opset in list(model.opset_import):
    if opset.domain not in used:
      model.opset_import.remove(opset)
  onnx.checker.check_model(model, full_check=True)
  return model.SerializeToString()


def _by_onnxruntime(model: Any) -> Any:
  """Returns a model after onnxruntime's basic rules."""
  import onnx
  import onnxruntime

  options = onnxruntime.SessionOptions()
  options.log_severity_level = 4  # what fails is raised
  options.graph_optimization_level = (
    onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
  )
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'model.onnx')
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(
      model.SerializeToString(), options, providers=['CPUExecutionProvider']
    )
    return onnx.load(path)


def _reduce_in_nchw(model: Any) -> None:
  """Makes sums and means over height and width read [N,C,H,W].

  onnxruntime moves a change of the layout only to where another ends it. Before
  a reduction none does, so it is written there.
  """
  from onnx import TensorProto, helper

  graph, axes = model.graph, _constants(model)
  for i, node in reversed(list(enumerate(graph.node))):
    keeps = any(a.name == 'keepdims' and a.i for a in node.attribute)
    if node.op_type not in ('ReduceSum', 'ReduceMean') or keeps:
      continue
    if len(node.input) < 2 or axes.get(node.input[1], []) != [1, 2]:
      continue
    moved, name = f'{node.output[0]}_nchw', f'{node.output[0]}_axes'
    graph.initializer.append(
      helper.make_tensor(name, TensorProto.INT64, (2,), (2, 3))
    )
    perm = helper.make_node('Transpose', node.input[:1], [moved], perm=_TO_NCHW)
    node.input[:] = [moved, name]
    graph.node.insert(i, perm)


def _scale_in_nchw(model: Any) -> None:
  """Moves scales and offsets of channels from behind a convolution's layout.

  Only a scale directly behind a convolution can be folded into it.
  """
  from onnx import helper

  graph = model.graph
  made = {output: node for node in graph.node for output in node.output}
  readers = collections.Counter(x for node in graph.node for x in node.input)
  shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
  tensors = {tensor.name: tensor for tensor in graph.initializer}
  outputs = {value.name for value in graph.output}
  for node in graph.node:  # a producer comes before its readers
    if node.op_type not in ('Mul', 'Add') or node.output[0] in outputs:
      continue
    value, constant = sorted(node.input, key=lambda x: x in shapes)
    before = made.get(value)
    channels = shapes.get(constant, [])
    if before is None or before.op_type != 'Transpose' or readers[value] > 1:
      continue
    if list(before.attribute[0].ints) != _TO_NHWC or channels[:-1] != [1, 1, 1]:
      continue
    copy = type(tensors[constant])()
    copy.CopyFrom(tensors[constant])
    copy.name = f'{node.output[0]}_nchw_constant'
    copy.dims[:] = [1, channels[-1], 1, 1]
    graph.initializer.append(copy)
    # The operator and the change of layout take each other's place.
    source, result = before.input[0], node.output[0]
    kind, inner = node.op_type, f'{result}_nchw'
    before.CopyFrom(helper.make_node(kind, [source, copy.name], [inner]))
    node.CopyFrom(
      helper.make_node('Transpose', [inner], [result], perm=_TO_NHWC)
    )
    made |= {inner: before, result: node}


def _add_in_gemm(model: Any) -> None:
  """Makes what is added to a matrix product the product's own bias.

  jax2onnx gives a product the bias 0, a scalar, on which onnxruntime's
  quantiser of single channels ends.
  """
  from onnx import numpy_helper

  graph = model.graph
  tensors = {tensor.name: tensor for tensor in graph.initializer}
  readers = collections.Counter(x for node in graph.node for x in node.input)
  made = {node.output[0]: node for node in graph.node}
  outputs = {value.name for value in graph.output}
  for node in list(graph.node):
    if node.op_type == 'Gemm' and len(node.input) > 2:
      bias = tensors.get(node.input[2])
      if bias is not None and not numpy_helper.to_array(bias).any():
        del node.input[2:]
  for node in list(graph.node):
    if node.op_type != 'Add':
      continue
    value, constant = sorted(node.input, key=lambda x: x in tensors)
    product, bias = made.get(value), tensors.get(constant)
    if product is None or product.op_type != 'Gemm' or bias is None:
      continue
    alone = readers[value] == 1 and value not in outputs
    if alone and len(product.input) == 2 and list(bias.dims)[:-1] in ([], [1]):
      copy = type(bias)()
      copy.CopyFrom(bias)
      copy.name, copy.dims[:] = f'{value}_bias', [bias.dims[-1]]
      graph.initializer.append(copy)
      product.input.append(copy.name)
      others = [a for a in product.attribute if a.name != 'beta']
      del product.attribute[:]  # beta scales the bias, and may be 0
      product.attribute.extend(others)
      product.output[0] = node.output[0]
      graph.node.remove(node)


def _constants(model: Any) -> dict[str, Any]:
  """Returns the values of short initializers of whole numbers, by name."""
  from onnx import numpy_helper

  return {
    tensor.name: numpy_helper.to_array(tensor).ravel().tolist()
    for tensor in model.graph.initializer
    if len(tensor.dims) <= 1
  }
