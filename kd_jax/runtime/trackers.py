"""Writers to Weights & Biases and to MLflow, which are extras of kd_jax."""

from collections.abc import Iterator, Mapping, Sequence
import importlib
import os
import re
import time
from typing import Any
import uuid

from kd_jax import errors
from kd_jax.runtime import gcs, run_dir, writers

_PROJECT = 'kd_jax'  # the project or experiment, where none is named
_SETTINGS = {  # of `wandb.Settings`
  'console': 'off',  # the run's lines stay in log.txt
  'silent': True,
  'finish_timeout': 15.0,  # seconds
  'x_transaction_log_flush_interval': 0.2,  # seconds; a kill loses the rest
}
_MOST_TAG = 64  # characters of a tag, by W&B
_MOST_VALUE = 500  # characters of a parameter, by any of MLflow's servers
_MOST_PARAMS, _MOST_METRICS = 100, 1000  # of a request to MLflow


class Wandb:
  """A writer to Weights & Biases.

  The variables of W&B say where and how: WANDB_MODE, WANDB_PROJECT and others.
  wandb.json in the run's folder has the run's id and the last step that was
  given away. W&B takes no value back, so that steps up to there, which a
  resumed run repeats, are not sent again.
  """

  def __init__(self) -> None:
    """Checks that W&B can be used; connects to nothing yet.

    Raises:
      UsageError: It is not installed, or no API key is known.
    """
    self._wandb = _module('wandb', has='init')
    self._rows: list[dict[str, Any]] = []
    # Otherwise a thread would ask for a key in the midst of the run.
    silent = self._wandb.Settings(silent=True)
    settings = self._wandb.setup(silent).settings
    if settings.mode in ('offline', 'dryrun', 'disabled'):
      return
    try:
      known = self._wandb.login(prompt=False, verify=False)
    except self._wandb.Error as error:
      raise errors.UsageError(f'logger wandb: {_first(error)}') from error
    if not known and self._wandb.run is None:
      raise errors.UsageError(
        'logger wandb: no API key is known; run `wandb login` or set '
        'WANDB_API_KEY, or set WANDB_MODE=offline to write to the run folder '
        'alone'
      )

  def open(
    self,
    about: writers.About,
    step: int,
    past: Sequence[Mapping[str, Any]],
  ) -> None:
    """Begins a run at W&B, or goes on with it; see `writers.Writer`."""
    self._folder = about.folder
    held = self._folder.read_alone('wandb.json')
    self._held = held or {'id': uuid.uuid4().hex[:12], 'step': 0}
    self._known = self._held['step']
    self._folder.write_alone('wandb.json', self._held)
    self._run = self._wandb.init(
      id=self._held['id'],
      resume='allow',
      reinit='create_new',
      project=os.environ.get('WANDB_PROJECT', _PROJECT),
      name=os.environ.get('WANDB_NAME', about.folder.path.name),
      dir=_place(about.folder),
      config=dict(about.config),
      allow_val_change=True,
      tags=[f'{k}:{v}'[:_MOST_TAG] for k, v in about.tags.items() if v],
      settings=self._wandb.Settings(**_SETTINGS),
    )
    # Its own counter never goes back, so the curves are drawn over ours.
    self._run.define_metric('*', step_metric='step')
    for record in past:
      self.scalars(record['step'], record)
    self.flush()

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Takes the scalars of a step; see `writers.Writer`."""
    if step > self._known:
      self._rows.append({**values, 'step': step})

  def flush(self) -> None:
    """Hands them to W&B's own process, which sends them."""
    if not self._rows:
      return
    self._held['step'] = self._rows[-1]['step']
    self._folder.write_alone('wandb.json', self._held)
    for row in self._rows:
      self._run.log(row)
    self._rows = []

  def close(self, result: Mapping[str, Any] | None) -> None:
    """Sends what is left, with the figures of the result as the summary."""
    self.flush()
    self._run.summary.update(_figures(result))
    self._run.finish(exit_code=int(result is None))


class MLflow:
  """A writer to MLflow.

  MLflow's own variables say where: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME
  and others. mlflow.json in the run's folder has the run's id. MLflow takes no
  value back, so that what it has of the steps that a resumed run repeats is not
  sent again.
  """

  def __init__(self) -> None:
    """Checks that MLflow is installed; connects to nothing yet.

    Raises:
      UsageError: It is not.
    """
    os.environ.setdefault('MLFLOW_LOGGING_LEVEL', 'WARNING')
    self._mlflow = _module('mlflow', has='MlflowClient')
    self._metrics: list[list[Any]] = []  # of each step
    self._known = -1.0  # the last epoch that MLflow has
    self._step = 0

  def open(
    self,
    about: writers.About,
    step: int,
    past: Sequence[Mapping[str, Any]],
  ) -> None:
    """Begins a run at MLflow, or goes on with it; see `writers.Writer`."""
    self._client = self._mlflow.MlflowClient()
    held = about.folder.read_alone('mlflow.json')
    run = self._found(held['id']) if held else None
    if run is None:  # or it is in another store
      run = self._client.create_run(
        self._experiment(), run_name=about.folder.path.name, tags=about.tags
      )
      about.folder.write_alone('mlflow.json', {'id': run.info.run_id})
    else:
      self._client.update_run(run.info.run_id, status='RUNNING')
    self._id = run.info.run_id
    self._known = run.data.metrics.get('epoch', self._known)
    self._write_config(about.config, run.data.params)
    for record in past:
      values = {k: v for k, v in record.items() if k != 'step'}
      self.scalars(record['step'], values)
    self.flush()

  def _found(self, run_id: str) -> Any:
    """Returns the run, or None if the store does not have it."""
    try:
      run = self._client.get_run(run_id)
    except self._mlflow.MlflowException as error:
      if error.error_code != 'RESOURCE_DOES_NOT_EXIST':
        raise
      return None
    return run if run.info.lifecycle_stage == 'active' else None

  def _experiment(self) -> str:
    """Returns the experiment's id; the experiment is made if need be."""
    if known := os.environ.get('MLFLOW_EXPERIMENT_ID'):
      return known
    name = os.environ.get('MLFLOW_EXPERIMENT_NAME', _PROJECT)
    found = self._client.get_experiment_by_name(name)
    if found is not None:
      return found.experiment_id
    try:
      return self._client.create_experiment(name)
    except self._mlflow.MlflowException:  # another run was first
      found = self._client.get_experiment_by_name(name)
      if found is None:
        raise
      return found.experiment_id

  def _write_config(
    self, config: Mapping[str, Any], known: Mapping[str, str]
  ) -> None:
    """Writes the parameters; a value that is not the first one is a tag."""
    entities = self._mlflow.entities
    texts = {_name(k): _short(v) for k, v in _flat(config, '.')}
    new = [entities.Param(k, v) for k, v in texts.items() if k not in known]
    for i in range(0, len(new), _MOST_PARAMS):
      self._client.log_batch(self._id, params=new[i : i + _MOST_PARAMS])
    for key, text in texts.items():
      if known.get(key, text) != text:
        self._client.set_tag(self._id, f'config.{key}', text)

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Takes the scalars of a step; see `writers.Writer`."""
    self._step = step
    if values['epoch'] > self._known:
      self._metrics.append(self._entities(step, values))

  def _entities(self, step: int, values: Mapping[str, float]) -> list[Any]:
    milliseconds = int(time.time() * 1000)
    metric = self._mlflow.entities.Metric
    return [metric(_name(k), v, milliseconds, step) for k, v in values.items()]

  def flush(self) -> None:
    """Sends them; a step is in one request, which MLflow takes as a whole."""
    batch: list[Any] = []
    for metrics in [*self._metrics, None]:
      if batch and (
        metrics is None or len(batch) + len(metrics) > _MOST_METRICS
      ):
        self._client.log_batch(self._id, metrics=batch)
        batch = []
      batch += metrics or []
    self._metrics = []

  def close(self, result: Mapping[str, Any] | None) -> None:
    """Sends what is left, and the figures of the result as metrics."""
    self._metrics.append(self._entities(self._step, _figures(result)))
    self.flush()
    self._client.set_terminated(
      self._id, 'KILLED' if result is None else 'FINISHED'
    )


def _module(name: str, *, has: str) -> Any:
  """Returns the module of an extra.

  Args:
    name: The name of the module and of the extra.
    has: A name in it. A folder without code, such as W&B makes in the current
      directory, would be imported too.

  Raises:
    UsageError: It cannot be imported.
  """
  try:
    module = importlib.import_module(name)
    getattr(module, has)
  except (AttributeError, ImportError) as error:
    raise errors.UsageError(
      f"logger {name}: {_first(error)}; pip install 'kd_jax[{name}]'"
    ) from error
  return module


def _first(error: Exception) -> str:
  return str(error).strip().partition('\n')[0]


def _place(folder: run_dir.Folder) -> str | None:
  """Returns where W&B keeps its files; None leaves it to W&B."""
  place = str(folder.path)
  if os.environ.get('WANDB_DIR') or gcs.is_bucket(place):
    return None
  return place


def _flat(
  values: Mapping[str, Any], separator: str, prefix: str = ''
) -> Iterator[tuple[str, Any]]:
  """Yields the leaves of nested dicts with their paths."""
  for key, value in values.items():
    if isinstance(value, Mapping) and value:
      yield from _flat(value, separator, f'{prefix}{key}{separator}')
    else:
      yield f'{prefix}{key}', value


def _figures(result: Mapping[str, Any] | None) -> dict[str, float]:
  """Returns the numbers of a result, as 'result/top1'."""
  return {
    f'result/{path}': value
    for path, value in _flat(result or {}, '/')
    if isinstance(value, int | float) and not isinstance(value, bool)
  }


def _name(text: str) -> str:
  """Returns a name in the characters that MLflow allows."""
  return re.sub(r'[^\w\-. :/]', '_', text, flags=re.ASCII)


def _short(value: Any) -> str:
  text = str(value)
  return text if len(text) <= _MOST_VALUE else f'{text[: _MOST_VALUE - 3]}...'
