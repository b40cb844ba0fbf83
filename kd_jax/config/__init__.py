"""What a configuration holds, how recipes are written, what identifies a run.

This lives in the package so that a configuration file anywhere, also beside an
installed wheel, can import it.
"""

from ml_collections import ConfigDict as ConfigDict

from kd_jax.config.completing import completed as completed
from kd_jax.config.identity import alone as alone
from kd_jax.config.identity import determining as determining
from kd_jax.config.identity import difference as difference
from kd_jax.config.identity import digest as digest
from kd_jax.config.identity import of_baseline as of_baseline
from kd_jax.config.identity import of_teacher as of_teacher
from kd_jax.config.identity import plain as plain
from kd_jax.config.loading import checked as checked
from kd_jax.config.loading import load as load
from kd_jax.config.recipes import PAIRS as PAIRS
from kd_jax.config.recipes import benchmark as benchmark
from kd_jax.config.recipes import digits as digits
from kd_jax.config.recipes import files as files
from kd_jax.config.recipes import find as find
from kd_jax.config.recipes import imagenet as imagenet
from kd_jax.config.recipes import initialised as initialised
from kd_jax.config.recipes import pair as pair
from kd_jax.config.recipes import pairs as pairs
from kd_jax.config.recipes import pick as pick
from kd_jax.config.recipes import scenes_detection as scenes_detection
from kd_jax.config.recipes import scenes_segmentation as scenes_segmentation
from kd_jax.config.recipes import small_pair as small_pair
from kd_jax.config.recipes import stages as stages
from kd_jax.config.recipes import teacher_free as teacher_free
from kd_jax.config.recipes import tf_fd_recipe as tf_fd_recipe
from kd_jax.config.recipes import voc as voc
from kd_jax.config.recipes import voc_pair as voc_pair
from kd_jax.config.recipes import voc_teacher as voc_teacher
from kd_jax.config.recipes_boxes import voc_boxes as voc_boxes
from kd_jax.config.recipes_boxes import voc_boxes_pair as voc_boxes_pair
from kd_jax.config.schema import ADDED as ADDED
from kd_jax.config.schema import CHOICES as CHOICES
from kd_jax.config.schema import DTYPES as DTYPES
from kd_jax.config.schema import INDIFFERENT as INDIFFERENT
from kd_jax.config.schema import KEYS as KEYS
from kd_jax.config.schema import Key as Key
from kd_jax.config.schema import default as default
from kd_jax.config.schema import network as network
from kd_jax.config.schema import step_schedule as step_schedule
from kd_jax.config.schema import warmed_up as warmed_up
from kd_jax.config.validate import check_batch as check_batch
from kd_jax.config.validate import check_data as check_data
from kd_jax.config.validate import check_values as check_values
