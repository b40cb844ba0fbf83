"""An export: a folder that predicts the classes of images without kd_jax.

network.json         class names, normalisation, accuracy and origin
weights.safetensors  the arrays that the forward pass reads, by path
forward.jax_export   the forward pass by `jax.export` (StableHLO) for cpu, cuda
                     and tpu: (weights, images [N,H,W,3] u8) to logits [N,K],
                     of pixels [N,H,W,K], or detections [N,200,6], f32
predict.py           predicts classes of images; counts the correct ones if an
                     .npz file has labels
test.npz             on request: 'image' and 'label' of the test split
student.onnx         on request: see `kd_jax.export.onnx`
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
from typing import Any, NamedTuple
import uuid

from etils import epath
import jax
from jax import export
from jax.extend import core
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from kd_jax import errors, tasks
from kd_jax.data import source
from kd_jax.export import predict_template
from kd_jax.runtime import durable, jaxprs, stored
from kd_jax.version import __version__

# The version of the format; it grows if older versions of kd_jax could not read
# the files.
FORMAT = 1
PLATFORMS = ('cpu', 'cuda', 'tpu')
FACTS = 'network.json'
WEIGHTS = 'weights.safetensors'
FORWARD = 'forward.jax_export'
TEST = 'test.npz'
_LOCK = '.lock'
# The error's module is jax.core up to jax 0.9.
_INCONCLUSIVE = 'InconclusiveDimensionOperation'
_Inconclusive: Any = getattr(
  jax.errors if hasattr(jax.errors, _INCONCLUSIVE) else jax.core, _INCONCLUSIVE
)
Forward = Callable[[dict[str, Any], Any], Any]


class Trained(NamedTuple):
  """A trained network, which takes images without normalisation.

  Attributes:
    weights: The arrays by path, such as 'student/params/conv1/kernel'.
    forward: A pure function from the weights and images [N,H,W,3] u8 to the
      outputs of the task, f32: of classification logits [N,K].
    facts: The facts of network.json about the network.
  """

  weights: dict[str, Any]
  forward: Forward
  facts: dict[str, Any]


def is_export(folder: epath.PathLike) -> bool:
  """Returns whether a folder is an export, judged by network.json alone."""
  return (epath.Path(folder) / FACTS).exists()


@contextlib.contextmanager
def beside(folder: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
  """Returns a context manager that writes a folder as a whole.

  It yields a temporary folder with a name that nobody else has, which is
  renamed at the end and deleted if the body raises. While it is written, its
  lock is held; what a killed process left, whose lock is free, is deleted.

  Args:
    folder: The final path; it must not exist, or be an empty folder.

  Raises:
    UsageError: `folder` exists and is not empty, or cannot be written. Other
      errors of the body, such as of what it reads, stay what they are.
  """
  final = pathlib.Path(folder).expanduser().absolute()
  part = final.with_name(f'.{final.name}.{uuid.uuid4().hex}.part')
  try:
    with _writing(final):
      if final.exists() and not (final.is_dir() and _is_empty(final)):
        raise errors.UsageError(
          f'{final} is there already; remove it or give another folder'
        )
      final.parent.mkdir(parents=True, exist_ok=True)
      _remove_abandoned(final)
      part.mkdir()
    with _writing(final, part), _locked(part):
      yield part
    with _writing(final):
      part.rename(final)
  finally:
    shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def _writing(
  final: pathlib.Path, part: pathlib.Path | None = None
) -> Iterator[None]:
  """Raises UsageError for an OSError of the body.

  Args:
    final: The path that the error names.
    part: The folder whose files cannot be written; errors of other files, or of
      a pipe, are left. A full storage is an error without a file.
  """
  try:
    yield
  except OSError as error:
    name = error.filename if isinstance(error.filename, str) else ''
    inside = part is None or pathlib.Path(name).is_relative_to(part)
    if not inside and error.errno not in durable.STORAGE:
      raise
    raise errors.UsageError(f'cannot write {final}: {error}') from error


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
  """Returns a context manager that holds the lock of a temporary folder."""
  lock = folder / _LOCK
  with open(lock.with_suffix('.new'), 'wb') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    os.rename(file.name, lock)  # whoever sees it sees it locked
    yield
    lock.unlink()


def _remove_abandoned(final: pathlib.Path) -> None:
  """Deletes the temporary folders for a path whose processes have died.

  A folder without a lock stays: its process may be about to lock it, or to
  rename it.
  """
  name = re.compile(re.escape(f'.{final.name}.') + r'[0-9a-f]{32}\.part')
  for folder in final.parent.iterdir():
    if not name.fullmatch(folder.name) or folder.is_symlink():
      continue
    with contextlib.suppress(OSError), open(folder / _LOCK, 'rb') as file:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if os.path.samestat(os.fstat(file.fileno()), os.stat(folder / _LOCK)):
        shutil.rmtree(folder, ignore_errors=True)


def _is_empty(folder: pathlib.Path) -> bool:
  return next(folder.iterdir(), None) is None


def write(
  trained: Trained, folder: pathlib.Path, test: source.Arrays | None = None
) -> None:
  """Writes the files of an export; see the module's docstring.

  Args:
    trained: The network. Its facts lack the fields of the format, which are
      added.
    folder: The folder to write into, as yielded by `beside`.
    test: The test split to write as test.npz, or None.

  Raises:
    UsageError: The forward pass does not work for every batch size, or calls
      code of the machine.
  """
  weights, exported = program(trained)
  if why := predict_template.refusal(exported, weights, trained.facts):
    raise errors.UsageError(
      f'the program of network {trained.facts["network"]} {why}: write what '
      'the network computes in jax.numpy without jnp.linalg, whose functions '
      'call libraries of the machine'
    )
  arrays = {name: np.asarray(value) for name, value in weights.items()}
  (folder / WEIGHTS).write_bytes(safetensors_numpy.save(arrays))
  (folder / FORWARD).write_bytes(exported.serialize())
  predict = pathlib.Path(__file__).with_name('predict_template.py')
  (folder / 'predict.py').write_text(predict.read_text())
  if test is not None:
    arrays = {'image': test.image, **test.targets}
    np.savez_compressed(folder / 'test.npz', **arrays)  # type: ignore[arg-type]
  format_facts = {
    'format': FORMAT,
    'kd_jax': __version__,
    'jax': jax.__version__,
    'sha256': {name: _sha256(folder / name) for name in (WEIGHTS, FORWARD)},
  }
  facts = dict(trained.facts)
  if 'data' in facts:  # a path of this machine is for nobody else
    facts['data'] = {k: x for k, x in facts['data'].items() if k != 'place'}
  # Those of an export that is exported again are of its own files.
  text = json.dumps({**format_facts, **facts, **format_facts}, indent=2)
  (folder / FACTS).write_text(text + '\n')


def program(
  trained: Trained, platforms: Sequence[str] = PLATFORMS
) -> tuple[dict[str, Any], export.Exported]:
  """Exports the forward pass of a network for every batch size.

  Args:
    trained: The network.
    platforms: The platforms of the exported program, as `jax.export` names
      them.

  Returns:
    The weights that the forward pass reads, and the exported program.

  Raises:
    UsageError: The network's code needs a fixed batch size.
  """
  size = trained.facts['image_size']
  (batch,) = export.symbolic_shape('batch')
  images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
  try:
    # jax.export itself keeps unused weights, such as a teacher's encoder.
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
  """Returns the pruned forward pass and the names of the weights it reads."""
  names = sorted(trained.weights)  # JAX flattens a dict in this order
  task = _task(trained.facts)

  def whole(weights, images):
    return task.deployed(trained.forward(weights, images))

  program, used = jaxprs.pruned(
    jax.make_jaxpr(whole)(_shapes(trained.weights), images)
  )
  *used_weights, uses_images = used
  used_names = [n for n, used in zip(names, used_weights, strict=True) if used]

  def forward(weights, images):
    inputs = [weights[name] for name in used_names]
    inputs += [images] if uses_images else []
    return core.jaxpr_as_fun(program)(*inputs)[0]

  return forward, used_names


def _task(facts: dict[str, Any]) -> tasks.Task:
  return tasks.find(facts.get('task', 'classification'))


def _shapes(weights: dict[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
  return {
    name: jax.ShapeDtypeStruct(value.shape, value.dtype)
    for name, value in weights.items()
  }


def read(folder: epath.PathLike) -> Trained:
  """Returns the network of an export.

  Args:
    folder: The export's folder.

  Raises:
    UsageError: The folder is not an export, is damaged, or was written by a
      newer or incompatible version.
  """
  path = epath.Path(folder)
  facts = _facts(path)
  try:
    content = {name: stored.content(path / name) for name in (WEIGHTS, FORWARD)}
  except OSError as error:
    raise errors.UsageError(f'{path} is no whole export: {error}') from error
  for name, value in content.items():
    if hashlib.sha256(value).hexdigest() != facts['sha256'][name]:
      raise errors.UsageError(
        f'{path / name} is damaged: it is not what was exported; export again'
      )
  try:
    weights = safetensors_numpy.load(content[WEIGHTS])
  except safetensors.SafetensorError as error:
    raise errors.UsageError(
      f'{path / WEIGHTS} cannot be read: {error}; export the run again'
    ) from error
  try:
    program = predict_template.compiled(
      content[FORWARD], _shapes(weights), facts
    )
  except ValueError as error:
    raise errors.UsageError(f'{path}: {error}') from error
  task, classes = _task(facts), len(facts['class_names'])

  def forward(weights, images):
    return task.of_deployed(program(weights, images), classes)

  return Trained(weights, forward, facts)


def check_finite(weights: dict[str, Any], name: str) -> None:
  """Checks that weights are finite numbers.

  Args:
    weights: The arrays by path.
    name: What they are of, for the message.

  Raises:
    UsageError: One is NaN or infinite.
  """
  for path, array in weights.items():
    if not np.isfinite(np.asarray(array)).all():
      raise errors.UsageError(
        f'{name}: {path} has values that are no finite numbers (NaN or '
        'infinite): its training diverged, or the file is damaged'
      )


def _facts(place: epath.Path) -> dict[str, Any]:
  """Returns the content of network.json after a check of its format."""
  try:
    fields = {'format': stored.COUNT, 'kd_jax': stored.TEXT}
    facts = stored.read(place / FACTS, fields)
    version, by = facts['format'], facts['kd_jax']
    if version <= FORMAT:
      stored.check(facts, stored.FIELDS[FACTS], str(place / FACTS))
      _ = facts['sha256'][WEIGHTS], facts['sha256'][FORWARD], facts['jax']
      _ = facts['class_names'], facts['image_size'], facts['network']
  except (OSError, KeyError) as error:
    raise errors.UsageError(
      f'{place / FACTS} is not what kd_jax.export writes: '
      f'{type(error).__name__}: {error}'
    ) from error
  if version > FORMAT:
    raise errors.UsageError(
      f'{place} was exported by kd_jax {by} in format {version}; this kd_jax, '
      f'{__version__}, reads up to format {FORMAT}: install a newer one'
    )
  return facts


def _sha256(path: pathlib.Path) -> str:
  return hashlib.sha256(path.read_bytes()).hexdigest()


def counted(forward: Forward, task: tasks.Task) -> Any:
  """Returns a jitted function that counts correct predictions of images.

  Args:
    forward: The forward pass of a `Trained`.
    task: The task of the images.

  Returns:
    A function of (weights, batch) that returns `task.count` as 'all',
    `task.count_classes` as 'classes' and `task.rows` as 'rows'. The batch has
    'image' [N,H,W,3] u8, the targets, such as 'label' [N] i32, and 'mask'
    [N] f32.
  """

  def counts(weights, batch):
    outputs = forward(weights, batch['image'])
    return {
      'all': task.count(outputs, batch),
      'classes': task.count_classes(outputs, batch),
      'rows': task.rows(outputs, batch),
    }

  return jax.jit(counts)


def probabilities(forward: Forward) -> Any:
  """Returns a jitted function that computes the probabilities of the classes.

  Args:
    forward: The forward pass of a `Trained`.

  Returns:
    A function from (weights, images [N,H,W,3] u8) to probabilities [N,K] f32.
  """
  return jax.jit(lambda w, x: jax.nn.softmax(forward(w, x)))


def classes(forward: Forward) -> Any:
  """Returns a jitted function that computes the classes of pixels.

  Args:
    forward: The forward pass of a `Trained` that labels pixels.

  Returns:
    A function from (weights, images [N,H,W,3] u8) to the likeliest classes
    [N,H,W] u8, and whether all logits of an image are finite, [N] bool.
  """

  def likeliest(weights, images):
    logits = forward(weights, images)
    finite = jnp.isfinite(logits).all((1, 2, 3))
    return logits.argmax(-1).astype(jnp.uint8), finite

  return jax.jit(likeliest)


def detections(forward: Forward) -> Any:
  """Returns a jitted function that computes the strongest detections.

  Args:
    forward: The forward pass of a `Trained` that finds objects.

  Returns:
    A function from (weights, images [N,H,W,3] u8) to [N,200,6] f32; see
    `Detection.deployed`.
  """
  task = tasks.find('detection')
  return jax.jit(lambda w, x: task.deployed(forward(w, x)))
