"""An export: a folder that labels images without kd_jax.

network.json         what it is: classes, normalisation, accuracy, origin
weights.safetensors  the arrays that its forward pass reads, by path
forward.jax_export   the forward pass by `jax.export` (StableHLO) for cpu, cuda
                     and tpu: (weights, images [N,H,W,3] u8) to logits [N,K] f32
predict.py           labels images, and counts what is right of an .npz
test.npz             on request: 'image' and 'label' of the test split
student.onnx         on request: see `onnx_file`
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from typing import Any, NamedTuple

from etils import epath
import jax
from jax import export
from jax.extend import core
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from kd_jax import errors, version
from kd_jax.data import source
from kd_jax.export import predict_template
from kd_jax.runtime import jaxprs
from kd_jax.tasks import classification

FORMAT = 1  # grows whenever an older kd_jax could not read what is written
PLATFORMS = ('cpu', 'cuda', 'tpu')
FACTS = 'network.json'
WEIGHTS = 'weights.safetensors'
FORWARD = 'forward.jax_export'
TEST = 'test.npz'
# jax.core has it up to jax 0.9.
_INCONCLUSIVE = 'InconclusiveDimensionOperation'
_Inconclusive: Any = getattr(
  jax.errors if hasattr(jax.errors, _INCONCLUSIVE) else jax.core, _INCONCLUSIVE
)
Forward = Callable[[dict[str, Any], Any], jax.Array]


class Trained(NamedTuple):
  """A trained prediction that takes images as they are.

  Attributes:
    weights: arrays by path, such as 'student/params/conv1/kernel'.
    forward: pure; weights and images [N,H,W,3] u8 to logits [N,K] f32.
    facts: what network.json says of it.
  """

  weights: dict[str, Any]
  forward: Forward
  facts: dict[str, Any]


def is_export(folder: epath.PathLike) -> bool:
  """Whether the folder looks like an export."""
  return (epath.Path(folder) / FACTS).exists()


@contextlib.contextmanager
def beside(folder: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """A folder to write into, which takes its name once all is written.

  Raises:
    UsageError: where `folder` holds something already, or cannot be written.
  """
  target = pathlib.Path(folder).expanduser().absolute()
  part = target.with_name(f'.{target.name}.{os.getpid()}.part')
  try:
    if target.exists() and not (target.is_dir() and _is_empty(target)):
      raise errors.UsageError(
        f'{target} is there already; remove it or give another folder'
      )
    target.parent.mkdir(parents=True, exist_ok=True)
    part.mkdir()
    yield part
    part.rename(target)
  except OSError as error:
    raise errors.UsageError(f'cannot write {target}: {error}') from error
  finally:
    shutil.rmtree(part, ignore_errors=True)


def _is_empty(folder: pathlib.Path) -> bool:
  return next(folder.iterdir(), None) is None


def write(
  trained: Trained, folder: pathlib.Path, test: source.Arrays | None = None
) -> None:
  """Writes the files of an export; see the module's head.

  Args:
    trained: what to write; `facts` of it, without the fields of the format.
    folder: that `beside` gave.
    test: the test split, where it shall be written too.

  Raises:
    UsageError: where the forward pass cannot have a batch of any size.
  """
  weights, exported = program(trained)
  arrays = {name: np.asarray(value) for name, value in weights.items()}
  (folder / WEIGHTS).write_bytes(safetensors_numpy.save(arrays))
  (folder / FORWARD).write_bytes(exported.serialize())
  predict = pathlib.Path(__file__).with_name('predict_template.py')
  (folder / 'predict.py').write_text(predict.read_text())
  if test is not None:
    np.savez_compressed(
      folder / 'test.npz', image=test.image, label=test.labels
    )
  own = {
    'format': FORMAT,
    'kd_jax': version.__version__,
    'jax': jax.__version__,
    'sha256': {name: _sha256(folder / name) for name in (WEIGHTS, FORWARD)},
  }
  text = json.dumps({**own, **trained.facts}, indent=2)
  (folder / FACTS).write_text(text + '\n')


def program(
  trained: Trained, platforms: Sequence[str] = PLATFORMS
) -> tuple[dict[str, Any], export.Exported]:
  """The forward pass for a batch of any size, and the weights that it reads.

  Raises:
    UsageError: where the network's code wants a batch of one size.
  """
  size = trained.facts['image_size']
  (batch,) = export.symbolic_shape('batch')
  images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
  try:
    # jax.export itself keeps what is not read, such as a teacher's encoder.
    forward, names = _pruned(trained, images)
    weights = {name: trained.weights[name] for name in names}
    exporting = export.export(jax.jit(forward), platforms=platforms)
    return weights, exporting(_shapes(weights), images)
  except _Inconclusive as error:
    line = str(error).strip().partition('\n')[0]
    raise errors.UsageError(
      f'network {trained.facts["network"]} cannot take a batch of any size: '
      f'{line}'
    ) from error


def _pruned(
  trained: Trained, images: jax.ShapeDtypeStruct
) -> tuple[Forward, list[str]]:
  """The forward pass without what its result does not need, and its weights."""
  names = sorted(trained.weights)  # as JAX orders a dict's
  program, used = jaxprs.pruned(
    jax.make_jaxpr(trained.forward)(_shapes(trained.weights), images)
  )
  *used_weights, uses_images = used
  read = [n for n, used in zip(names, used_weights, strict=True) if used]

  def forward(weights, images):
    given = [weights[name] for name in read]
    given += [images] if uses_images else []
    return core.jaxpr_as_fun(program)(*given)[0]

  return forward, read


def _shapes(weights: dict[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
  return {
    name: jax.ShapeDtypeStruct(value.shape, value.dtype)
    for name, value in weights.items()
  }


def read(folder: epath.PathLike) -> Trained:
  """Reads an export.

  Raises:
    UsageError: where it is none, is damaged, or of a newer version.
  """
  place = epath.Path(folder)
  facts = _facts(place)
  try:
    content = {name: (place / name).read_bytes() for name in (WEIGHTS, FORWARD)}
  except OSError as error:
    raise errors.UsageError(f'{place} is no whole export: {error}') from error
  for name, value in content.items():
    if hashlib.sha256(value).hexdigest() != facts['sha256'][name]:
      raise errors.UsageError(
        f'{place / name} is damaged: it is not what was exported; export anew'
      )
  try:
    weights = safetensors_numpy.load(content[WEIGHTS])
  except safetensors.SafetensorError as error:
    raise errors.UsageError(
      f'{place / WEIGHTS} cannot be read: {error}; export the run again'
    ) from error
  try:
    forward = predict_template.compiled(
      content[FORWARD], _shapes(weights), facts
    )
  except ValueError as error:
    raise errors.UsageError(f'{place}: {error}') from error
  return Trained(weights, forward, facts)


def _facts(place: epath.Path) -> dict[str, Any]:
  """What network.json says, its format checked."""
  try:
    facts = json.loads((place / FACTS).read_text())
    version, by = facts['format'], facts['kd_jax']
    if version <= FORMAT:
      _ = facts['sha256'][WEIGHTS], facts['sha256'][FORWARD], facts['jax']
      _ = facts['class_names'], facts['image_size']
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise errors.UsageError(
      f'{place / FACTS} is not what kd_jax.export writes: '
      f'{type(error).__name__}: {error}'
    ) from error
  if version > FORMAT:
    raise errors.UsageError(
      f'{place} was exported by kd_jax {by} in format {version}; this kd_jax, '
      f'{version.__version__}, reads up to format {FORMAT}: install a newer one'
    )
  return facts


def _sha256(path: pathlib.Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()


def ranks(forward: Forward) -> Any:
  """`classification.rank` of what a forward pass says of images [N,H,W,3] u8.

  Returns:
    A jitted function of (weights, images, labels [N] i32).
  """

  @jax.jit
  def ranks(weights, image, label):
    return classification.rank(forward(weights, image), label)

  return ranks


def probabilities(forward: Forward) -> Any:
  """The probabilities [N,K] f32 that a forward pass gives to images.

  Returns:
    A jitted function of (weights, images [N,H,W,3] u8).
  """
  return jax.jit(lambda w, x: jax.nn.softmax(forward(w, x)))
