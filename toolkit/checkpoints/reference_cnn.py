"""The reference CNN: float32 `[N,C,H,W]` → logits `[N,K]`."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812 - the usual name in the field
from torch import Tensor, nn


class ReferenceCNN(nn.Module):
    """Two 3x3 convolutions, one max-pool, two fully connected layers; logits, no softmax.

    The layers and their names are those of PyTorch's MNIST example
    (https://github.com/pytorch/examples/blob/main/mnist/main.py), without its log-softmax.
    """

    def __init__(
        self, channels: int = 1, height: int = 28, width: int = 28, classes: int = 10
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.dropout1 = nn.Dropout(0.25)
        self.fc1 = nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128)
        self.dropout2 = nn.Dropout(0.5)
        self.fc2 = nn.Linear(128, classes)

    def forward(self, input: Tensor) -> Tensor:
        """Float32 `[N,C,H,W]`, normalised → logits `[N,K]`."""
        x = F.relu(self.conv1(input))  # (N, 32, H-2, W-2)
        x = F.relu(self.conv2(x))  # (N, 64, H-4, W-4)
        x = self.dropout1(F.max_pool2d(x, 2)).flatten(1)
        x = self.dropout2(F.relu(self.fc1(x)))
        logits: Tensor = self.fc2(x)
        return logits
