"""One of several processes that train a few methods, for processes_test."""

import pathlib
import shutil
import sys

import jax

from kd_jax import processes, runs, trainer
from tests import main_test

METHODS = ('kd', 'ofd', 'ffsd', 'crd')


def config_of(method, epochs):
  """Epochs of five steps, saved at the end; networks of a few channels.

  With a usual learning rate the last bits of a sum would grow to whole numbers
  within 20 steps of such small batches, most of all in FFSD.
  """
  config = main_test.configuration(method).get_config('digits')
  config.data.train_size, config.batch_size = 40, 8
  config.epochs, config.checkpoint_every = epochs, 100.0
  config.eval_batch_size, config.eval_every = 360, 100.0
  config.optimizer.learning_rate.value = 1e-3
  config.student.args.widths = (4, 4, 8, 16)
  if method == 'crd':
    config.method_args.negatives = 16
  if config.teacher.name:
    config.teacher.name = 'resnet8'
    config.teacher.args.widths = (4, 8, 8, 16)
    config.teacher.recipe.epochs = 1
    config.teacher.recipe.batch_size = 40
    config.teacher.expected_top1 = 0.0
  return config


def main(folder, *methods):
  """Trains each method for 5 steps in folder/first, and 20 more in a copy."""
  processes.start(heartbeat_timeout_seconds=20)
  for method in methods:
    first, more = (pathlib.Path(folder) / n / method for n in ('first', 'more'))
    result = trainer.train(config_of(method, 1), runs.Folder(first))
    told = processes.gather(result)
    assert told == [result] * processes.count()
    processes.first(lambda a=first, b=more: str(shutil.copytree(a, b)))
    trainer.train(config_of(method, 5), runs.Folder(more))
  print('done', processes.count(), jax.device_count())


if __name__ == '__main__':
  main(*sys.argv[1:])
