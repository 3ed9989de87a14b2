"""The configuration that all others start from: every field, with its meaning.

The command line can set any field, `--config.train.epochs=20`. After a colon, as in
`--config=configs/eca.py:resnet18,smoke`, it takes words:
  a network      one of `attn_flax.list_models()`
  a dataset      one of `presets.recipes.DATASETS`, with the network and the recipe that suit it
  a recipe       one of `presets.recipes.RECIPES`
  smoke          a tiny network and a few updates, to see that everything works

The default command makes 1,000 updates of 64 images (eight epochs). The docstrings of the other
files say what it gives with seed 0: the top-1 accuracy, and the time of an update on two CPU cores
relative to that of `resnet`, which takes about 142 ms. Some also say what the example study of the
README measured with its own recipe, the accuracy as mean and standard deviation of three seeds.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from configs.presets import words
from configs.presets.mechanisms import ATTENTION


def attention(name, every=1, stages=None, start='paper', **fields):
  """Makes an entry of `config.model.attention`: a mechanism, where it acts, and its fields.

  Args:
    name: one of `attn_flax.list_attention()`; or 'module:Class', a Flax module of your own.
    every: 1 to act in every block of its stages, 2 in every second one, and so on.
    stages: stages where it acts, counted from 1; None: the mechanism's default.
    start: 'paper', or 'identity' to start as the network without the mechanism.
    **fields: fields of the mechanism. The entry of a built-in mechanism has all its fields, so that
      the command line can set them; that of another module has only the fields given here.

  Returns:
    The entry, locked.

  Raises:
    AttributeError, KeyError: for a field that a built-in mechanism does not have.
  """
  usual = ATTENTION.get(name, fields)
  entry = ConfigDict({'name': name, 'every': every, 'start': start})
  for field, value in {'stages': None, **usual}.items():
    # A new placeholder for each entry: a shared one would carry values from one entry to another.
    entry[field] = placeholder(tuple) if value is None else value
  entry.lock()
  for field, value in {'stages': stages, **fields}.items():
    one_of_tuple = isinstance(value, int) and (field == 'stages' or usual[field] is None)
    entry[field] = (value,) if one_of_tuple else value
  return entry


def every_second(config):
  """The value of `every` for every second block; 1 if no stage has two blocks."""
  return 1 if config.model.depths and max(config.model.depths) < 2 else 2


def last_stage(config):
  """Number of the network's last stage."""
  depths = config.model.depths
  return len(depths) if depths else words.num_stages(config.model.name)


def thin(config):
  """Whether the network's first stage is too narrow for the papers' reduction ratio of 16."""
  thin_name = words.THIN.match(config.model.name) or config.model.name.startswith('mnasnet')
  return config.model.widths is not None or bool(thin_name)


def get_config(arg=''):
  """The baseline: ResNet-20 without attention on the embedded dataset."""
  config = ConfigDict()

  # Seed of the initial weights, the order of the data and the augmentation.
  config.seed = 0
  # Fine-tuning: a run folder or a PyTorch file whose weights the run starts from.
  config.init_from = placeholder(str)
  # What the network learns: one of `attn_flax.tasks.names.TASKS`.
  config.task = 'classification'

  # The network. A field that is none takes the network's own default.
  config.model = ConfigDict()
  # Network: one of `attn_flax.list_models()`.
  config.model.name = 'resnet20'
  # Attention: a mapping from places (conv, branch, block, stage) to entries made by `attention`.
  config.model.attention = ConfigDict()
  # Compute dtype, 'float32' or 'bfloat16'. Parameters, loss and metrics are float32.
  config.model.dtype = 'float32'
  # Number of logits; none: the number of classes of the dataset.
  config.model.num_classes = placeholder(int)
  # Blocks per stage.
  config.model.depths = placeholder(tuple)
  # Width of the blocks of each stage, in channels; a bottleneck's output has four times as many.
  config.model.widths = placeholder(tuple)
  # Kind of the blocks: 'basic', 'bottleneck' or 'preact' (pre-activation).
  config.model.block = placeholder(str)
  # Stem: 'imagenet' (7x7 of stride 2, then max-pool), 'deep' (three 3x3 in place of the 7x7),
  # 'tiered' (the same, narrower at first) or 'cifar' (3x3); none: the network's own, or 'cifar' if
  # that one would leave a last feature map below 3x3.
  config.model.stem = placeholder(str)
  # Channels of the stem.
  config.model.stem_width = placeholder(int)
  # Bottlenecks: the convolution that takes the stride, '3x3' (v1.5) or '1x1' (v1).
  config.model.stride_in = placeholder(str)
  # Bottlenecks: groups of the 3x3 convolutions.
  config.model.groups = placeholder(int)
  # Bottlenecks: channels of a group in a block of width 64; they grow in proportion to the width.
  config.model.base_width = placeholder(int)
  # Shortcut where the shape changes: 'conv' (strided 1x1) or 'avg' (average pool, then 1x1).
  config.model.shortcut = placeholder(str)
  # Max-pool of the stem: 'torch' (padded, rounds down) or 'caffe' (not padded, rounds up).
  config.model.max_pool = placeholder(str)
  # Whether a ReLU follows the last norm of each residual branch.
  config.model.branch_relu = placeholder(bool)
  # Dropout rate: inside pre-activation blocks, else before the head; in ViT after the position
  # embedding and the dense layers.
  config.model.dropout = placeholder(float)
  # Stochastic depth: share of the images that skip the branch of the last block. It grows in
  # proportion to the block's number.
  config.model.drop_path = placeholder(float)
  # Stages that are not trained, their batch statistics included; 0 is the stem.
  config.model.frozen = placeholder(tuple)
  # Whether the last norm of each block starts at scale 0. Gates after it then have no gradient at
  # the first update.
  config.model.zero_init_last = placeholder(bool)
  # MnasNet: factor of all widths.
  config.model.width_multiplier = placeholder(float)
  # MnasNet: padding of the convolutions, 'same' as in TensorFlow or 'torch' as in PyTorch.
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
  # ViT: what the head reads, 'token' (a class token) or 'mean' (the mean of the patches).
  config.model.pool = placeholder(str)
  # ViT: GELU, 'tanh' (the approximation of the released code) or 'exact'.
  config.model.gelu = placeholder(str)
  # ViT: whether the head starts at zero, so that all logits are zero at first.
  config.model.zero_init_head = placeholder(bool)

  config.data = ConfigDict()
  # Dataset: one of `attn_flax.data.DATASETS`, any name of the TFDS catalog, or 'folder'.
  config.data.name = 'cluttered_digits'
  # For 'folder', the folder of images. For other datasets, the folder of prepared datasets; none:
  # $TFDS_DATA_DIR, else ~/tensorflow_datasets.
  config.data.dir = placeholder(str)
  # Whether CIFAR-10 and CIFAR-100 may be downloaded where they are missing.
  config.data.download = False
  # Height and width of the images in pixels; none: the dataset's own.
  config.data.size = placeholder(int)
  # Seed of the dataset itself: of generated images, and of the splits of a folder without val/ or
  # test/.
  config.data.seed = 2014
  # How many broken images of a folder may be left out; if there are more, training does not start.
  config.data.max_bad = 0
  # Most pixels of an image of a folder, up to 2,000,000,000: decoding takes 4 bytes of memory for
  # each. Larger images count as broken.
  config.data.max_pixels = 178_956_970
  # Whether images of a folder that are smaller than `size` are enlarged. If not, they are an error.
  config.data.enlarge = False
  # Mean and standard deviation that images are normalized with: 'dataset' (the known ones of the
  # dataset, else ImageNet's), 'imagenet', 'measured' (those of the training images), or numbers in
  # 0..1 for the channels, '0.49,0.48,0.45/0.25,0.24,0.26'.
  config.data.normalize = 'dataset'
  # Processes that decode images; 0: threads. Datasets that are kept on the device need none.
  config.data.workers = 0
  # Whether training draws equally many images of every class in each epoch.
  config.data.balanced = False

  # Augmentation of training images.
  config.augment = ConfigDict()
  # Pixels of padding on each side before a random crop; 0: no crop; none: the dataset's value.
  config.augment.crop_padding = placeholder(int)
  # What the padding holds: 'constant' (black) or 'reflect'.
  config.augment.padding_mode = 'constant'
  # Whether to mirror images from left to right with probability 0.5; none: the dataset's value.
  config.augment.flip = placeholder(bool)
  # Whether to cut out random boxes and resize them, instead of the padded crop.
  config.augment.resized_crop = False
  # Color jitter: strength of the change of brightness, by factors in 1 +- strength; 0: off.
  config.augment.brightness = 0.0
  # The same for contrast.
  config.augment.contrast = 0.0
  # The same for saturation.
  config.augment.saturation = 0.0
  # Largest shift of the hue either way, as a share of the color circle, at most 0.5; 0: off.
  config.augment.hue = 0.0
  # Probability that an image becomes gray.
  config.augment.grey = 0.0
  # RandAugment: number of operations and their magnitude, 0..30; none: off.
  config.augment.randaugment = placeholder(tuple)
  # Cutout: side in pixels of the square that is removed from each image; 0: off.
  config.augment.cutout = 0
  # Random erasing: probability that a random box is removed from an image; 0: off.
  config.augment.erasing = 0.0
  # Alpha of mixup; 0: off.
  config.augment.mixup_alpha = 0.0
  # Alpha of CutMix; 0: off.
  config.augment.cutmix_alpha = 0.0
  # Probability that a batch is mixed, by mixup or CutMix.
  config.augment.mix_probability = 1.0

  config.train = ConfigDict()
  # Images per update, over all devices; none: 16 to 64, by the number of training images.
  config.train.batch_size = FieldReference(64)
  # Passes over the training split; none: enough for 4,000 updates, within 30 to 200, or with
  # `init_from` for 800 updates, within 10 to 50.
  config.train.epochs = FieldReference(8)
  # Number of updates, in place of the epochs; none: that of the epochs.
  config.train.steps = placeholder(int)
  # Equal parts of a batch, computed one after the other and averaged, to save memory.
  config.train.accumulate = 1
  # Label smoothing: share of the target that is spread over all classes; 0: off.
  config.train.label_smoothing = 0.0
  # Largest global norm of the gradient; none: no clipping.
  config.train.clip_norm = placeholder(float)
  # Decay of the moving average of weights and batch statistics; none: no average is kept.
  config.train.ema_decay = placeholder(float)
  # Whether the loss weighs each class by the inverse of its frequency.
  config.train.class_weights = False
  # Batch statistics of the batch norms: 'global' (over all devices) or 'per_device'.
  config.train.batch_norm = 'global'

  config.optimizer = ConfigDict()
  # 'sgd' or 'adamw'.
  config.optimizer.name = 'sgd'
  # Peak learning rate for batches of 256 images; it is scaled in proportion to the batch size.
  config.optimizer.lr_per_256 = 0.4
  # Momentum of SGD.
  config.optimizer.momentum = 0.9
  # Whether the momentum of SGD is Nesterov's.
  config.optimizer.nesterov = True
  # Weight decay: added to the gradient for SGD (L2), decoupled for AdamW.
  config.optimizer.weight_decay = 5e-4
  # Whether vectors and scalars (norms, biases) decay too, as in the papers' own scripts.
  config.optimizer.decay_all = False
  # Learning-rate schedule after a linear warm-up: 'cosine', 'step' or 'constant'.
  config.optimizer.schedule = 'cosine'
  # Epochs of warm-up. A cosine run shorter than twice that warms up over at most a tenth of its
  # updates.
  config.optimizer.warmup_epochs = 1.0
  # Epochs after which the step schedule lowers the learning rate.
  config.optimizer.step_epochs = (4, 6)
  # Factor by which the step schedule multiplies the learning rate each time.
  config.optimizer.step_factor = 0.1

  config.eval = ConfigDict()
  # Images per evaluation step, over all devices.
  config.eval.batch_size = 200
  # Epochs between evaluations on the validation split; a checkpoint follows each.
  config.eval.every_epochs = 1

  config.checkpoint = ConfigDict()
  # Updates between checkpoints beside those of the evaluations; none: no others.
  config.checkpoint.every_steps = placeholder(int)

  # Updates between two lines of training metrics.
  config.log_every = 25

  words.apply(config, arg)
  return config
