"""What one step of OFD on a DeepLab computes, beside the original's numbers.

The names are those of the original's state dicts, the arrays as they are there.
"""

import functools
from typing import Any, NamedTuple

from flax import traverse_util
import flax.linen as nn
import jax
import numpy as np
import optax

from kd_jax import losses, models
from kd_jax.distill import optim, step
from kd_jax.methods import adapters, ofd
from kd_jax.models import read_params
from kd_jax.models.pretrained import convert
from kd_jax.tasks import segmentation
from tests.methods import vectors

STAGES = (1, 2, 3, 4, 'aspp', 'decoder')
# Every channel count of the original, divided by 16.
_SIXTEENTH = {
  'aspp_width': 16,
  'low_width': 3,
  'decoder_width': 16,
  'widths': (4, 4, 8, 16, 32),
  'dropout': 'none',
}
_EIGHTH = {
  'aspp_width': 32,
  'low_width': 6,
  'decoder_width': 32,
  'stem_width': 4,
  'stages': (
    ((1, 2, 1, 1), (6, 3, 2, 2)),
    ((6, 4, 3, 2),),
    ((6, 8, 4, 2), (6, 12, 3, 1)),
    ((6, 20, 3, 2), (6, 40, 1, 1)),
  ),
  'dropout': 'none',
}
STUDENTS: dict[str, tuple[str, dict[str, Any]]] = {
  'dense_deeplab_resnet': ('deeplab_resnet18', _SIXTEENTH),
  'dense_deeplab_mobilenet': ('deeplab_mobilenetv2', _EIGHTH),
}
TEACHER = ('deeplab_resnet101', {'stage_sizes': (1, 2, 2, 3), **_SIXTEENTH})


class Computed(NamedTuple):
  """What the original's file holds, and what is computed here.

  Attributes:
    case: The original's arrays by their keys.
    meta: Its description.
    found: What is computed here, by the same keys.
  """

  case: dict[str, np.ndarray]
  meta: dict[str, Any]
  found: dict[str, np.ndarray]


def of(case: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
  """Returns the arrays under a prefix, by what follows it."""
  return {
    key.removeprefix(prefix): value
    for key, value in case.items()
    if key.startswith(prefix)
  }


def network(name: str, fields: dict[str, Any], classes: int, **more):
  """Returns a network and its variables' names in the original."""
  made = models.make(name, classes, **fields, **more)
  (plan,) = convert.plans(made).values()
  return made, plan


def connectors(case: dict[str, np.ndarray]) -> dict[str, Any]:
  """Returns the variables of OFD's connectors."""
  params, statistics = {}, {}
  for i, stage in enumerate(STAGES):
    part = of(case, f'par_connector/{i}.')
    params[f'connector{stage}'] = {
      'conv': {'kernel': vectors.kernel(part['0.weight'])},
      'bn': {'scale': part['1.weight'], 'bias': part['1.bias']},
    }
    statistics[f'connector{stage}'] = {'bn': vectors.statistics(part, '1')}
  return {'params': params, 'batch_stats': statistics}


def optimizer(rates: Any) -> optax.GradientTransformation:
  """Returns the original's SGD, whose first state is the gradient."""
  rules = zip(
    ('^student/backbone/', '^student/', '^method/'), rates, strict=True
  )
  groups = [
    (
      expression,
      optim.transformation(
        'sgd',
        optax.constant_schedule(rate),
        weight_decay=5e-4,
        momentum=0.9,
        nesterov=True,
      ),
    )
    for expression, rate in rules
  ]
  return optax.chain(optax.trace(0.0), optim.by_path(groups))


def rates(meta: dict[str, Any]) -> list[jax.Array]:
  """Returns the learning rates of backbone, heads and connectors."""
  given = meta['step']
  steps = given['iters_per_epoch']
  # The epoch before is a phase of its own.
  at = (given['epoch'] - 1) * steps + given['i']
  fields = {'power': 0.9, 'epochs': given['epochs'], 'first': 1}
  return [
    optim.schedule(
      {'kind': 'poly', 'value': factor * given['base_lr'], **fields}, steps, 49
    )(at)
    for factor in (1, 10, 10)
  ]


def named(plan, tree, prefix):
  """Returns leaves by the original's names, as it lays them out."""
  leaves = traverse_util.flatten_dict(tree)
  return {
    f'{prefix}{plan[path]}': _torch(leaf)
    for path, leaf in leaves.items()
    if path in plan
  }


def _torch(leaf):
  leaf = np.asarray(leaf)
  return leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf


def _of_connectors(params, prefix):
  found = {}
  for i, stage in enumerate(STAGES):
    part = params[f'connector{stage}']
    if 'conv' in part:
      found[f'{prefix}{i}.0.weight'] = _torch(part['conv']['kernel'])
    for ours, theirs in convert.LEAVES.items():
      if ours in part['bn']:
        found[f'{prefix}{i}.1.{theirs}'] = np.asarray(part['bn'][ours])
  return found


@functools.cache
def computed(file: str) -> Computed:
  """Returns a case, with all that one compiled program computes of it."""
  case, meta = vectors.load(file)
  classes = len(case['par_student/decoder.last_conv.8.bias'])
  student, plan = network(*STUDENTS[file], classes)
  teacher, teachers_plan = network(*TEACHER, classes, batch_norm='batch')
  variables = convert.convert(student, of(case, 'par_student/'))
  frozen = convert.convert(teacher, of(case, 'par_teacher/'))
  divisors = tuple(meta['dividers'])
  method = Watched(
    stages=STAGES, divisors=divisors, task=segmentation.Segmentation()
  )
  count = len(case['in_image'])
  weights = {'ce': 1 / count, 'kd': 0.0, 'ofd': 1e-5}
  exp = step.Experiment(
    students={'student': student},
    teachers={'teacher': teacher},
    method=method,
    weights={n: optax.constant_schedule(w) for n, w in weights.items()},
    tx=optimizer(rates(meta)),
  )
  joined = connectors(case)
  params = {'student': variables['params'], 'method': joined['params']}
  model_state = {
    'student': {'batch_stats': variables['batch_stats']},
    'method': {'batch_stats': joined['batch_stats']},
  }
  state = step.TrainState(
    np.int32(0), params, model_state, jax.eval_shape(exp.tx.init, params)
  )
  state = state.replace(
    opt_state=jax.tree.map(
      lambda x: np.zeros(x.shape, x.dtype), state.opt_state
    )
  )
  batch = {
    'image': vectors.nhwc(case['in_image']),
    'label': case['in_label'].astype(np.int32),
    'index': np.arange(count, dtype=np.int32),
  }
  outputs = _program(exp, state, {'teacher': frozen}, batch)
  return Computed(case, meta, _keyed(outputs, meta, plan, teachers_plan))


def _taps(method, feats, network):
  names = [pair[network == 'student'] for pair in method.pairs()]
  return [feats[network][name] for name in names]


class Watched(ofd.Method):
  """OFD, which reports the maps that it reads beside its terms."""

  @nn.compact
  def __call__(self, feats, batch):
    for name in ('teacher', 'student'):
      self.measure(f'{name} taps', _taps(self, feats, name))
      self.measure(f'{name} logits', feats[name]['logits'])
    return super().__call__(feats, batch)


def _sums(state, margins, taps):
  """Returns the distance of each stage, summed over the batch."""
  for stage, margin, theirs, mine in zip(STAGES, margins, *taps, strict=True):
    variables = {
      'params': state.params['method'][f'connector{stage}'],
      'batch_stats': state.model_state['method']['batch_stats'][
        f'connector{stage}'
      ],
    }
    joined, _ = adapters.Connector().apply(
      variables, mine, theirs.shape[-1], mutable=['batch_stats']
    )
    yield losses.partial_l2(joined, theirs, margin) * len(mine)


def _program(exp, state, frozen, batch):
  student, teacher = exp.students['student'], exp.teachers['teacher']

  @jax.jit
  def program(state, frozen, batch):
    new, terms = step.train_step(exp, np.int32(0), state, frozen, batch)
    params = {'params': state.params['student']}
    evaluated = student.apply(
      {**params, **state.model_state['student']}, batch['image'], train=False
    )
    params = frozen['teacher']['params']
    norms = [read_params.last_bn(params, stage) for stage in STAGES]
    margins = [losses.margin(*norm) for norm in norms]
    taps = [terms[f'method/{name} taps'] for name in ('teacher', 'student')]
    return new, terms, evaluated, margins, list(_sums(state, margins, taps))

  outputs = program(state, frozen, batch)
  return jax.device_get(
    (*outputs, *_teacher(teacher, frozen['teacher'], batch['image']))
  )


@functools.partial(jax.jit, static_argnames='network')
def _teacher(network, variables, image):
  """Returns logits in evaluation, and running statistics after training."""
  plain = network.clone(batch_norm='auto')
  _, changed = network.apply(
    variables, image, train=True, mutable=['batch_stats']
  )
  return plain.apply(variables, image, train=False), changed['batch_stats']


def _keyed(outputs, meta, plan, teachers_plan):
  new, terms, evaluated, margins, sums, teachers_logits, moved = outputs
  maps = {
    'out_eval_logits_student': evaluated,
    'out_eval_logits_teacher': teachers_logits,
  }
  for name in ('teacher', 'student'):
    maps[f'out_logits_{name}'] = terms[f'method/{name} logits']
    for i, x in enumerate(terms[f'method/{name} taps'], 1):
      maps[f'out_{name}_tap_{i}'] = x
  found = {key: np.moveaxis(x, -1, 1) for key, x in maps.items()}
  for i, (margin, total) in enumerate(zip(margins, sums, strict=True), 1):
    found |= {f'out_margin_{i}': margin, f'out_loss_tap_{i}': total}
  count = len(evaluated)
  found['out_distill_sum'] = terms['loss/ofd'] * count
  found['out_ce_over_batch'] = terms['weighted/ce']
  found['out_total'] = terms['total']
  found['out_learning_rates'] = np.asarray(rates(meta))
  grads = new.opt_state[0].trace
  for prefix, params in (('grad', grads), ('new', new.params)):
    found |= named(plan, {'params': params['student']}, f'{prefix}_student/')
    found |= _of_connectors(params['method'], f'{prefix}_connector/')
  found |= named(plan, new.model_state['student'], 'buf_student/')
  found |= named(teachers_plan, {'batch_stats': moved}, 'buf_teacher/')
  found |= _of_connectors(
    new.model_state['method']['batch_stats'], 'buf_connector/'
  )
  return found
