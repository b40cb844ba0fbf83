"""The accuracies of a training state, by split and network."""

from collections.abc import Callable, Mapping
from typing import Any

from kd_jax.data import dataset
from kd_jax.distill import averaging, evaluation, step
from kd_jax.distill.parts import Parts

EMA = 'ema'  # how the figures of averaged parameters are marked


def measured(
  parts: Parts,
  tests: Mapping[str, dataset.EvalSet],
  counts: Mapping[str, Callable[..., Any]],
  batch_size: int,
  state: step.TrainState,
  frozen: Mapping[str, Any],
  beat: Callable[[str], None],
) -> dict[str, float]:
  """Returns accuracies by 'split/measure'.

  Predictions other than the deployed one are under 'split/name/measure', and
  those of the averaged parameters under 'split/ema/measure'.

  Args:
    parts: The parts of the run.
    tests: The splits to evaluate, by name.
    counts: For each of them what `evaluation.make` returns.
    batch_size: Images of a batch, over all devices.
    state: The state.
    frozen: The teachers' variables by name.
    beat: See `evaluation.evaluate`.
  """
  deployed = parts.deployed.name
  accuracies: dict[str, float] = {}

  def evaluate(split: str, params: Any, model_state: Any) -> Any:
    return evaluation.evaluate(
      parts.task,
      counts[split],
      tests[split],
      batch_size,
      params,
      model_state,
      frozen,
      beat,
    )

  for split in tests:
    values = evaluate(split, state.params, state.model_state)
    found = {
      split if name == deployed else f'{split}/{name}': measures
      for name, measures in values.items()
    }
    if state.average:
      averaged = averaging.collections(state.average, state.model_state)
      found[f'{split}/{EMA}'] = evaluate(split, *averaged)[deployed]
    for prefix, measures in found.items():
      accuracies |= {f'{prefix}/{k}': value for k, value in measures.items()}
  return accuracies
