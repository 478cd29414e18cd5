"""A user's model whose path depends on its input: TorchScript traces it, torch.export refuses
it."""

from __future__ import annotations

from torch import Tensor, nn


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(784, 10)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x.flatten(1))
        return y if float(y.sum()) > 0 else -y
