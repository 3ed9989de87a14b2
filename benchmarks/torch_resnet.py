"""He's CIFAR networks with SE, ECA, CBAM or BAM in PyTorch, to be timed beside those in JAX."""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from attn_flax.attention.eca import adaptive_kernel_size


class ChannelMLP(nn.Module):
  """The channel gate of SE, CBAM and BAM; returns logits [N, C, 1, 1]."""

  def __init__(self, channels, ratio, pools=('avg',), norm=False):
    super().__init__()
    self.pools = pools
    norm = [nn.BatchNorm1d(channels // ratio)] if norm else []
    self.mlp = nn.Sequential(
      nn.Linear(channels, channels // ratio),
      *norm,
      nn.ReLU(),
      nn.Linear(channels // ratio, channels),
    )

  def forward(self, x):
    pooled = {'avg': lambda: x.mean((2, 3)), 'max': lambda: x.amax((2, 3))}
    return sum(self.mlp(pooled[pool]()) for pool in self.pools)[:, :, None, None]


class SE(nn.Module):
  """Squeeze-and-excitation; [N, C, H, W] to the same shape, as all mechanisms here."""

  def __init__(self, channels, ratio):
    super().__init__()
    self.gate = ChannelMLP(channels, ratio)

  def forward(self, x):
    return x * torch.sigmoid(self.gate(x))


class ECA(nn.Module):
  """Efficient channel attention."""

  def __init__(self, channels, ratio):
    super().__init__()
    size = adaptive_kernel_size(channels)
    self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

  def forward(self, x):
    gate = self.conv(x.mean((2, 3))[:, None])[:, 0, :, None, None]
    return x * torch.sigmoid(gate)


class CBAM(nn.Module):
  """CBAM: channel gate, then spatial gate."""

  def __init__(self, channels, ratio):
    super().__init__()
    self.channel = ChannelMLP(channels, ratio, ('avg', 'max'))
    self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
    self.norm = nn.BatchNorm2d(1, momentum=0.01)

  def forward(self, x):
    x = x * torch.sigmoid(self.channel(x))
    pooled = torch.stack([x.amax(1), x.mean(1)], 1)
    return x * torch.sigmoid(self.norm(self.conv(pooled)))


class BAM(nn.Module):
  """BAM: channel and spatial gate in parallel, with a residual."""

  def __init__(self, channels, ratio):
    super().__init__()
    hidden = channels // ratio
    self.channel = ChannelMLP(channels, ratio, norm=True)
    layers = [nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU()]
    for _ in range(2):
      dilated = nn.Conv2d(hidden, hidden, 3, padding=4, dilation=4)
      layers += [dilated, nn.BatchNorm2d(hidden), nn.ReLU()]
    self.spatial = nn.Sequential(*layers, nn.Conv2d(hidden, 1, 1))

  def forward(self, x):
    return x + x * torch.sigmoid(self.channel(x) * self.spatial(x))


class Block(nn.Module):
  """A basic residual block, with attention on its branch before the addition."""

  def __init__(self, inputs, planes, stride, attention):
    super().__init__()
    self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
    self.norm1 = nn.BatchNorm2d(planes)
    self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
    self.norm2 = nn.BatchNorm2d(planes)
    self.attention = attention or nn.Identity()
    self.shortcut = nn.Identity()
    if stride != 1 or inputs != planes:
      self.shortcut = nn.Sequential(
        nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
      )

  def forward(self, x):
    y = F.relu(self.norm1(self.conv1(x)))
    return F.relu(self.attention(self.norm2(self.conv2(y))) + self.shortcut(x))


class ResNet(nn.Module):
  """He's network of 6n + 2 layers, with attention at its default place; returns logits."""

  def __init__(self, depth, attention, ratio, num_classes=10):
    super().__init__()
    make = {'se': SE, 'eca': ECA, 'cbam': CBAM}.get(attention)
    layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    inputs = 16
    for stage, planes in enumerate((16, 32, 64)):
      for i in range((depth - 2) // 6):
        stride = 2 if stage and i == 0 else 1
        layers.append(Block(inputs, planes, stride, make and make(planes, ratio)))
        inputs = planes
      if attention == 'bam' and stage < 2:
        layers.append(BAM(planes, ratio))
    self.layers = nn.Sequential(*layers)
    self.head = nn.Linear(64, num_classes)

  def forward(self, x):
    return self.head(self.layers(x).mean((2, 3)))


def training_step(depth, attention, ratio, batch_size, image_size):
  """A training step on one random batch: channels last, SGD with Nesterov momentum.

  Args:
    depth: 20, 32, 44, 56 or 110.
    attention: 'se', 'eca', 'cbam' or 'bam'; anything else: none.
    ratio: reduction ratio of SE, CBAM and BAM.
    batch_size: images of the batch.
    image_size: height and width of the images in pixels.

  Returns:
    A function that makes one step and returns the loss, and the number of parameters.
  """
  torch.manual_seed(0)
  model = ResNet(depth, attention, ratio).to(memory_format=torch.channels_last)
  optimizer = torch.optim.SGD(
    model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
  )
  images = torch.randn(batch_size, 3, image_size, image_size)
  images = images.to(memory_format=torch.channels_last)
  labels = torch.randint(0, 10, (batch_size,))

  def step():
    optimizer.zero_grad(set_to_none=True)
    loss = F.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()

  return step, sum(p.numel() for p in model.parameters())
