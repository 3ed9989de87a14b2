"""The configuration that every other one starts from: each field, with its meaning.

Any field can be overridden on the command line, `--config.train.epochs=20`. The argument behind
the colon, `--config=configs/eca.py:resnet18,smoke`, takes words:
  a network      one of the names of `attn_flax.list_models()`
  a dataset      one of `DATASETS`
  smoke          a tiny network and a few steps, to see that everything works
"""

import difflib
import re

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

# What a dataset's name in the argument sets.
DATASETS = {
  'cluttered_digits': {'model.name': 'resnet20', 'train.epochs': 8},
}

# Names that look like these are networks; `attn_flax.create_model` knows which exist.
_NETWORK = re.compile(r'resnet\d+$')
# He's thin CIFAR networks: three stages of 16, 32 and 64 channels.
_THIN = re.compile(r'resnet(20|32|44|56|110)$')

# The fields of every mechanism with their defaults, as its class has them. A tuple placeholder
# stands for None: the mechanism's own rule.
ATTENTION = {
  'se': {'ratio': 16, 'bias': True, 'divisor': 1},
  'eca': {'kernel_size': placeholder(tuple), 'gamma': 2.0, 'b': 1.0, 'circular': False},
  'cbam': {
    'ratio': 16,
    'pools': ('avg', 'max'),
    'bias': True,
    'kernel_size': 7,
    'order': 'channel_first',
    'zero_init_spatial': True,
  },
  'bam': {'ratio': 16, 'dilation': 4, 'depth': 2, 'combine': 'product', 'end_norm': False},
}


def attention(name, every=1, stages=None, start='paper', **fields):
  """An entry of `config.model.attention`: the mechanism, where in the network, and its fields."""
  # `start` is 'paper', or 'identity' to begin as the network without the mechanism.
  entry = ConfigDict({'name': name, 'every': every, 'start': start, **ATTENTION[name]})
  # Stages where it acts, counted from 1; none: the mechanism's default.
  entry.stages = placeholder(tuple)
  entry.lock()
  entry.update(fields)
  if stages is not None:
    entry.stages = stages
  return entry


def thin(config):
  """Whether the network's first stage is too narrow for the papers' reduction ratio of 16."""
  return config.model.widths is not None or bool(_THIN.match(config.model.name))


def get_config(arg=''):
  """The baseline: ResNet-20 without attention on the embedded dataset."""
  config = ConfigDict()

  # Seed of the weights, the data order and the augmentation.
  config.seed = 0

  config.model = ConfigDict()
  # Network: one of `attn_flax.list_models()`.
  config.model.name = 'resnet20'
  # Attention: a mapping from places (conv, branch, block, stage) to entries made by `attention`.
  config.model.attention = ConfigDict()
  # Blocks per stage; none: the network's own.
  config.model.depths = placeholder(tuple)
  # Planes per stage; none: the network's own.
  config.model.widths = placeholder(tuple)
  # 'imagenet' (7x7 of stride 2, max-pool) or 'cifar' (3x3); none: the network's own.
  config.model.stem = placeholder(str)
  # Bottlenecks: the convolution that takes the stride, '3x3' (v1.5) or '1x1' (v1).
  config.model.stride_in = '3x3'
  # Start each block's last norm at scale 0. Gates behind it then learn nothing at the first step.
  config.model.zero_init_last = False
  # Compute dtype, 'float32' or 'bfloat16'. Parameters, loss and metrics are float32.
  config.model.dtype = 'float32'

  config.data = ConfigDict()
  # Dataset: one of `attn_flax.data.DATASETS`.
  config.data.name = 'cluttered_digits'
  # Folder of prepared datasets; none: $TFDS_DATA_DIR, else the default of tensorflow-datasets.
  config.data.dir = placeholder(str)
  # Side of the images in pixels; none: the dataset's own.
  config.data.size = placeholder(int)
  # Seed of the dataset itself, where it is generated.
  config.data.seed = 2014

  config.train = ConfigDict()
  # Images per update, over all devices.
  config.train.batch_size = 64
  # Passes over the training split.
  config.train.epochs = 8
  # Updates; none: as many as the epochs make.
  config.train.steps = placeholder(int)
  # Equal parts that a batch is split into, one after the other, to save memory.
  config.train.accumulate = 1
  # Share of the target spread over all classes.
  config.train.label_smoothing = 0.0
  # Largest global norm of the gradient; none: no clipping.
  config.train.clip_norm = placeholder(float)
  # Decay of the moving average of weights and batch statistics; none: no average is kept.
  config.train.ema_decay = placeholder(float)
  # Statistics of the batch norms: 'global' (over all devices) or 'per_device'.
  config.train.batch_norm = 'global'

  config.optimizer = ConfigDict()
  # 'sgd' or 'adamw'.
  config.optimizer.name = 'sgd'
  # Peak learning rate for batches of 256 images; it is scaled in proportion to the batch.
  config.optimizer.lr_per_256 = 0.4
  # Momentum of SGD.
  config.optimizer.momentum = 0.9
  # Nesterov's form of the momentum.
  config.optimizer.nesterov = True
  # Weight decay: L2 in the gradient for SGD, decoupled for AdamW.
  config.optimizer.weight_decay = 5e-4
  # Decay vectors and scalars too (norms, biases), as the papers' own scripts do.
  config.optimizer.decay_all = False
  # 'cosine', 'step' or 'constant', behind a linear warm-up.
  config.optimizer.schedule = 'cosine'
  # Length of the warm-up.
  config.optimizer.warmup_epochs = 1.0
  # Epochs at which the step schedule multiplies the rate by `step_factor`.
  config.optimizer.step_epochs = (4, 6)
  config.optimizer.step_factor = 0.1

  config.eval = ConfigDict()
  # Images per evaluation step, over all devices.
  config.eval.batch_size = 200
  # Epochs between evaluations on the validation split; each is followed by a checkpoint.
  config.eval.every_epochs = 1

  config.checkpoint = ConfigDict()
  # Updates between further checkpoints; none: after evaluations only.
  config.checkpoint.every_steps = placeholder(int)

  # Updates between lines of metrics.
  config.log_every = 25

  _apply(config, arg)
  return config


def _apply(config, arg):
  """Sets what the words of the argument say."""
  smoke = False
  for word in filter(None, (word.strip() for word in (arg or '').split(','))):
    if word == 'smoke':
      smoke = True
    elif word in DATASETS:
      config.data.name = word
      config.update_from_flattened_dict(DATASETS[word])
    elif _NETWORK.match(word):
      config.model.name = word
    else:
      known = ['smoke', *DATASETS]
      near = difflib.get_close_matches(word, known, n=1)
      hint = f'did you mean {near[0]!r}? ' if near else ''
      raise ValueError(
        f'unknown word {word!r} in the config argument {arg!r}; {hint}'
        f'allowed: {", ".join(known)}, or the name of a network'
      )
  if smoke:
    num_stages = 3 if _THIN.match(config.model.name) else 4
    config.model.depths = (1,) * num_stages
    config.model.widths = (8, 16, 32, 64)[:num_stages]
    config.model.stem = 'cifar'
    config.train.steps = 20
    config.log_every = 5
