"""Factories of models that are not part of the toolkit, for `benchmarks/own_models.py`."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import VisionTransformer


class Perceptron(nn.Module):
    """A multi-layer perceptron for grey images of 28x28 pixels."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Dropout(0.2), nn.Linear(256, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Float32 `[N,1,28,28]` → logits `[N,K]`."""
        logits: Tensor = self.layers(images)
        return logits


class SmallCNN(nn.Module):
    """Two convolutions with batch normalisation, for grey images of 28x28 pixels."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(512, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Float32 `[N,1,28,28]` → logits `[N,K]`."""
        logits: Tensor = self.layers(images)
        return logits


def small_vision_transformer(num_classes: int = 10) -> nn.Module:
    """torchvision's vision transformer with 4 layers of width 192, for images of 224x224 pixels.
    torchvision starts its last layer with zeros; random weights make the logits differ."""
    model: nn.Module = VisionTransformer(
        image_size=224,
        patch_size=16,
        num_layers=4,
        num_heads=3,
        hidden_dim=192,
        mlp_dim=768,
        num_classes=num_classes,
    )
    head = model.get_submodule("heads.head")
    assert isinstance(head, nn.Linear)
    nn.init.normal_(head.weight, std=0.1)
    return model
