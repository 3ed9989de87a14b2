"""The configuration that every other one starts from: each field, with its meaning.

Any field can be overridden on the command line, `--config.train.epochs=20`. The argument behind
the colon, `--config=configs/eca.py:resnet18,smoke`, takes words:
  a network      one of the names of `attn_flax.list_models()`
  a dataset      one of `presets.recipes.DATASETS`, with the network and the recipe that suit it
  a recipe       one of `presets.recipes.RECIPES`
  smoke          a tiny network and a few steps, to see that everything works

The default command makes 1,000 updates of 64 images (eight epochs). The heads of the other files
say how long an update takes on two CPU cores, and what the quick study of the README found.
"""

import re

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from configs.presets import words
from configs.presets.mechanisms import ATTENTION


def attention(name, every=1, stages=None, start='paper', **fields):
  """An entry of `config.model.attention`: the mechanism, where in the network, and its fields.

  Args:
    name: one of `attn_flax.list_attention()`; or 'module:Class', a Flax module of your own.
    every: it acts in every block, every second one, and so on.
    stages: stages where it acts, counted from 1; None: the mechanism's default.
    start: 'paper', or 'identity' to start as the network without the mechanism.
    **fields: fields of the mechanism. The command line sets all fields of a built-in mechanism, and
      of others those that are given here.
  """
  usual = ATTENTION.get(name, fields)
  entry = ConfigDict({'name': name, 'every': every, 'start': start})
  for field, value in {'stages': None, **usual}.items():
    # A placeholder of its own: one that entries shared would carry values from one to another.
    entry[field] = placeholder(tuple) if value is None else value
  entry.lock()
  for field, value in {'stages': stages, **fields}.items():
    one_of_tuple = isinstance(value, int) and (field == 'stages' or usual[field] is None)
    entry[field] = (value,) if one_of_tuple else value
  return entry


def every_second(config):
  """`every` for every second block; 1 where each stage has but one block."""
  return 1 if config.model.depths and max(config.model.depths) < 2 else 2


def last_stage(config):
  """Number of the network's last stage: He's and Zagoruyko's CIFAR networks have three."""
  if config.model.depths:
    return len(config.model.depths)
  return 3 if re.match('wrn', config.model.name) or words.THIN.match(config.model.name) else 4


def thin(config):
  """Whether the network's first stage is too narrow for the papers' reduction ratio of 16."""
  thin_name = words.THIN.match(config.model.name) or config.model.name.startswith('mnasnet')
  return config.model.widths is not None or bool(thin_name)


def get_config(arg=''):
  """The baseline: ResNet-20 without attention on the embedded dataset."""
  config = ConfigDict()

  # Seed of the weights, the data order and the augmentation.
  config.seed = 0
  # Fine-tuning: a run folder or a PyTorch file whose weights the run starts from.
  config.init_from = placeholder(str)
  # What the network learns: one of `attn_flax.tasks.names.TASKS`.
  config.task = 'classification'

  # The network. Where a field is none, the network's own default applies.
  config.model = ConfigDict()
  # Network: one of `attn_flax.list_models()`.
  config.model.name = 'resnet20'
  # Attention: a mapping from places (conv, branch, block, stage) to entries made by `attention`.
  config.model.attention = ConfigDict()
  # Compute dtype, 'float32' or 'bfloat16'. Parameters, loss and metrics are float32.
  config.model.dtype = 'float32'
  # Number of logits; none: the dataset's classes.
  config.model.num_classes = placeholder(int)
  # Blocks per stage.
  config.model.depths = placeholder(tuple)
  # Planes per stage.
  config.model.widths = placeholder(tuple)
  # 'basic', 'bottleneck' or 'preact' blocks.
  config.model.block = placeholder(str)
  # 'imagenet' (7x7 of stride 2, max-pool), 'deep', 'tiered' (three 3x3) or 'cifar' (3x3); none: the
  # network's own, or 'cifar' where that would leave a last map below 3x3.
  config.model.stem = placeholder(str)
  # Channels of the stem.
  config.model.stem_width = placeholder(int)
  # Bottlenecks: the convolution that takes the stride, '3x3' (v1.5) or '1x1' (v1).
  config.model.stride_in = placeholder(str)
  # Bottlenecks: groups of the 3x3 convolutions.
  config.model.groups = placeholder(int)
  # Bottlenecks: width of a group at 64 planes.
  config.model.base_width = placeholder(int)
  # 'conv' (strided 1x1) or 'avg' (average pool, then 1x1).
  config.model.shortcut = placeholder(str)
  # 'torch' (padded, rounds down) or 'caffe' (not padded, rounds up).
  config.model.max_pool = placeholder(str)
  # A ReLU behind each branch's last norm.
  config.model.branch_relu = placeholder(bool)
  # Share of the activations dropped: inside pre-activation blocks, else before the head; in ViT.
  config.model.dropout = placeholder(float)
  # Stochastic depth: share of the images that skip the last block's branch; earlier blocks less.
  config.model.drop_path = placeholder(float)
  # Stages that stay as they are, weights and statistics; 0 is the stem.
  config.model.frozen = placeholder(tuple)
  # Start each block's last norm at scale 0. Gates behind it then learn nothing at the first step.
  config.model.zero_init_last = placeholder(bool)
  # MnasNet: factor of all widths.
  config.model.width_multiplier = placeholder(float)
  # MnasNet: 'same' pads as TensorFlow, 'torch' as PyTorch.
  config.model.padding = placeholder(str)
  # ViT: side of a patch in pixels.
  config.model.patch = placeholder(int)
  # ViT: width of a token.
  config.model.width = placeholder(int)
  # ViT: number of blocks.
  config.model.depth = placeholder(int)
  # ViT: attention heads.
  config.model.heads = placeholder(int)
  # ViT: hidden units of the MLPs.
  config.model.mlp_width = placeholder(int)
  # ViT: what the logits are made of, 'token' or 'mean'.
  config.model.pool = placeholder(str)
  # ViT: 'tanh' (the released approximation) or 'exact'.
  config.model.gelu = placeholder(str)
  # ViT: start with zero logits.
  config.model.zero_init_head = placeholder(bool)

  config.data = ConfigDict()
  # Dataset: one of `attn_flax.data.DATASETS`, any name of the TFDS catalog, or 'folder'.
  config.data.name = 'cluttered_digits'
  # Folder of prepared datasets (none: $TFDS_DATA_DIR, else the default of tensorflow-datasets), or
  # the folder of images.
  config.data.dir = placeholder(str)
  # Whether a missing dataset may be downloaded.
  config.data.download = False
  # Side of the images in pixels; none: the dataset's own.
  config.data.size = placeholder(int)
  # Seed of the dataset itself, where it is generated or split by hash.
  config.data.seed = 2014
  # Broken images of a folder that may be left out; above it, the first is an error.
  config.data.max_bad = 0
  # Pixels of the largest image of a folder that is decoded; 178,956,970 at most.
  config.data.max_pixels = 178_956_970
  # Whether images of a folder that are smaller than `size` are enlarged; else they are an error.
  config.data.enlarge = False
  # Mean and deviation of the channels: 'dataset' (those known of it, else ImageNet's), 'imagenet',
  # 'measured' (of the training images), or numbers in 0..1, '0.49,0.48,0.45/0.25,0.24,0.26'.
  config.data.normalize = 'dataset'
  # Processes that decode images; 0: threads. Datasets that are held on the device need none.
  config.data.workers = 0
  # Whether training draws equally many images of every class.
  config.data.balanced = False

  # Augmentation of training images, on the device. Where a field is none, the dataset's value
  # applies.
  config.augment = ConfigDict()
  # Pixels of padding on each side before a random crop.
  config.augment.crop_padding = placeholder(int)
  # What the padding holds: 'constant' (black) or 'reflect'.
  config.augment.padding_mode = 'constant'
  # Mirror every second image.
  config.augment.flip = placeholder(bool)
  # Cut random boxes and resize them, instead of the padded crop.
  config.augment.resized_crop = False
  # Color jitter: strength of the change of brightness, as factors in 1 +- strength.
  config.augment.brightness = 0.0
  # Of contrast.
  config.augment.contrast = 0.0
  # Of saturation.
  config.augment.saturation = 0.0
  # Of hue, in turns.
  config.augment.hue = 0.0
  # Probability of an image to become gray.
  config.augment.grey = 0.0
  # RandAugment: number of operations and their magnitude, 0..30; none: off.
  config.augment.randaugment = placeholder(tuple)
  # Side in pixels of the square that each image loses.
  config.augment.cutout = 0
  # Probability of an image to lose a random box.
  config.augment.erasing = 0.0
  # Alpha of mixup; 0: off.
  config.augment.mixup_alpha = 0.0
  # Alpha of CutMix; 0: off.
  config.augment.cutmix_alpha = 0.0
  # Probability of mixing at all.
  config.augment.mix_probability = 1.0

  config.train = ConfigDict()
  # Images per update, over all devices; none: 16 to 64, as suits the training images.
  config.train.batch_size = FieldReference(64)
  # Passes over the training split; none: as many as make 4,000 updates, 30 to 200, and with
  # `init_from` as make 800, 10 to 50.
  config.train.epochs = FieldReference(8)
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
  # Weigh each class by the inverse of its frequency in the loss.
  config.train.class_weights = False
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
  # Length of the warm-up; a cosine run shorter than two of them warms up over a tenth of it.
  config.optimizer.warmup_epochs = 1.0
  # Epochs at which the step schedule lowers the rate.
  config.optimizer.step_epochs = (4, 6)
  # What it multiplies the rate by.
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

  words.apply(config, arg)
  return config
