"""Datasets and recipes by name: the fields that each sets in a configuration, and its source."""

# The fields that the name of a dataset sets; `recipe` is one of `RECIPES`.
DATASETS = {
  'cluttered_digits': {'model.name': 'resnet20', 'recipe': 'quick'},
  'cifar10': {'model.name': 'resnet18', 'model.stem': 'cifar', 'recipe': 'cifar'},
  'cifar100': {'model.name': 'resnet18', 'model.stem': 'cifar', 'recipe': 'cifar'},
  'imagenet2012': {'model.name': 'resnet50', 'model.stem': 'imagenet', 'recipe': 'imagenet'},
  # A folder of your own images: --config.data.dir=<folder>.
  'folder': {'model.name': 'resnet18', 'recipe': 'photos'},
}

# The fields that the name of a recipe sets.
_SGD = {'optimizer.name': 'sgd', 'optimizer.momentum': 0.9}
RECIPES = {
  # Ours, for `cluttered_digits` in minutes on a CPU: the defaults of `base`.
  'quick': {},
  # Zagoruyko and Komodakis 2016 (arXiv 1605.07146), section 3: CIFAR in 200 epochs.
  'cifar': {
    **_SGD,
    'train.epochs': 200,
    'train.batch_size': 128,
    'optimizer.lr_per_256': 0.2,
    'optimizer.nesterov': True,
    'optimizer.weight_decay': 5e-4,
    'optimizer.decay_all': True,
    'optimizer.schedule': 'step',
    'optimizer.warmup_epochs': 0.0,
    'optimizer.step_epochs': (60, 120, 160),
    'optimizer.step_factor': 0.2,
    'augment.padding_mode': 'reflect',
  },
  # The scripts of Jongchan/attention-module and BangguWu/ECANet: ImageNet in 100 epochs.
  'imagenet': {
    **_SGD,
    'train.epochs': 100,
    'train.batch_size': 256,
    'optimizer.lr_per_256': 0.1,
    'optimizer.nesterov': False,
    'optimizer.weight_decay': 1e-4,
    'optimizer.decay_all': True,
    'optimizer.schedule': 'step',
    'optimizer.warmup_epochs': 0.0,
    'optimizer.step_epochs': (30, 60, 90),
    'optimizer.step_factor': 0.1,
  },
  # fb.resnet.torch, opts/train.lua: ImageNet in 90 epochs, with its color jitter.
  'imagenet90': {
    **_SGD,
    'train.epochs': 90,
    'train.batch_size': 256,
    'optimizer.lr_per_256': 0.1,
    'optimizer.nesterov': True,
    'optimizer.weight_decay': 1e-4,
    'optimizer.decay_all': True,
    'optimizer.schedule': 'step',
    'optimizer.warmup_epochs': 0.0,
    'optimizer.step_epochs': (30, 60),
    'optimizer.step_factor': 0.1,
    'augment.brightness': 0.4,
    'augment.contrast': 0.4,
    'augment.saturation': 0.4,
  },
  # Bello et al. 2019 (arXiv 1904.09925) on CIFAR-100, after a public port: 500 epochs, cosine after
  # a warm-up over 5 % of them. The paper's own appendix was not available.
  'aa': {
    **_SGD,
    'train.epochs': 500,
    'train.batch_size': 256,
    'optimizer.lr_per_256': 0.2,
    'optimizer.nesterov': False,
    'optimizer.weight_decay': 5e-4,
    'optimizer.schedule': 'cosine',
    'optimizer.warmup_epochs': 25.0,
  },
  # Ours, of the parts that are usual today (most are in Wightman et al. 2021, arXiv 2110.00476):
  # cosine, moving average, mixup and CutMix, RandAugment, label smoothing, no decay of norms.
  'modern': {
    **_SGD,
    'train.epochs': 300,
    'train.batch_size': 256,
    'train.label_smoothing': 0.1,
    'train.ema_decay': 0.9998,
    'optimizer.lr_per_256': 0.1,
    'optimizer.nesterov': True,
    'optimizer.weight_decay': 1e-4,
    'optimizer.decay_all': False,
    'optimizer.schedule': 'cosine',
    'optimizer.warmup_epochs': 5.0,
    'augment.randaugment': (2, 7.0),
    'augment.mixup_alpha': 0.2,
    'augment.cutmix_alpha': 1.0,
  },
  # Ours, and hardly tuned, for a few hundred to tens of thousands of photographs: batch size and
  # epochs follow from their number. AdamW as in the studies, where it learns in few epochs. The
  # moving average spans a ninth of the updates so far (`training/steps.py`), at most 1,000.
  'photos': {
    'optimizer.name': 'adamw',
    'train.epochs': None,
    'train.batch_size': None,
    'train.label_smoothing': 0.1,
    'train.ema_decay': 0.999,
    'optimizer.lr_per_256': 0.008,
    'optimizer.weight_decay': 0.05,
    'optimizer.decay_all': False,
    'optimizer.schedule': 'cosine',
    'optimizer.warmup_epochs': 5.0,
    'eval.every_epochs': 2,
    'augment.brightness': 0.2,
    'augment.contrast': 0.2,
    'augment.saturation': 0.2,
  },
}
