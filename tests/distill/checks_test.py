"""An augmentation is for one task's targets."""

import pytest

from kd_jax import config as config_lib
from kd_jax import errors, tasks
from kd_jax.distill import checks


@pytest.mark.parametrize('task', ['classification', 'detection'])
def test_masks_are_augmented_for_segmentation_alone(task):
  config = config_lib.scenes_segmentation()
  config.data.augment = 'segmentation'
  checks.check_method(config, tasks.find('segmentation'))
  with pytest.raises(errors.UsageError, match='moves images with their masks'):
    checks.check_method(config, tasks.find(task))
