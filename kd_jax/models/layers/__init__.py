"""The layers that all networks are made of, with PyTorch's numerics."""

from kd_jax.models.layers.batch_norm import FOLDED as FOLDED
from kd_jax.models.layers.batch_norm import BatchNorm as BatchNorm
from kd_jax.models.layers.batch_norm import BatchNormMode as BatchNormMode
from kd_jax.models.layers.batch_norm import check_mode as check_mode
from kd_jax.models.layers.batch_norm import conv_bn as conv_bn
from kd_jax.models.layers.batch_norm import normalise as normalise
from kd_jax.models.layers.blocks import SqueezeExcitation as SqueezeExcitation
from kd_jax.models.layers.blocks import drop_path as drop_path
from kd_jax.models.layers.blocks import layer_norm as layer_norm
from kd_jax.models.layers.blocks import rates as rates
from kd_jax.models.layers.blocks import token_init as token_init
from kd_jax.models.layers.conv import Conv as Conv
from kd_jax.models.layers.conv import ConvTranspose as ConvTranspose
from kd_jax.models.layers.conv import Linear as Linear
from kd_jax.models.layers.conv import conv_init as conv_init
from kd_jax.models.layers.conv import enlarge as enlarge
from kd_jax.models.layers.conv import he_init as he_init
from kd_jax.models.layers.conv import small_init as small_init
from kd_jax.models.layers.conv import torch_bias_init as torch_bias_init
from kd_jax.models.layers.conv import torch_conv as torch_conv
from kd_jax.models.layers.conv import torch_init as torch_init
from kd_jax.models.layers.conv import traced_for as traced_for
from kd_jax.models.layers.network import Network as Network
from kd_jax.models.layers.network import check_choice as check_choice
from kd_jax.models.layers.resize import resize as resize
