"""Checks the library where only JAX, Flax and NumPy are installed."""

import sys

import jax
import numpy as np
import weights

import attn_flax

images = jax.numpy.ones((2, 32, 32, 3))
model = attn_flax.create_model('resnet20', attention='cbam', num_classes=10)
variables = model.init(jax.random.key(0), images, train=False)
assert model.apply(variables, images, train=False).shape == (2, 10)
assert attn_flax.count_params(variables) and attn_flax.count_macs(model, (32, 32, 3))
assert len(attn_flax.attention_maps(model, variables, images)) == 18
assert attn_flax.grad_cam(model, variables, images, np.zeros(2, int)).shape == (2, 8, 8)

network, _ = attn_flax.from_torch(weights.state(classes=5))
assert network.num_classes == 5

apart = {'PIL', 'grain', 'matplotlib', 'ml_collections', 'tensorflow_datasets', 'torch', 'tqdm'}
apart |= {'attn_flax.data', 'optax', 'scipy'}
assert not apart & set(sys.modules), apart & set(sys.modules)
print(f'attn_flax {attn_flax.__version__} works with jax {jax.__version__} alone')
