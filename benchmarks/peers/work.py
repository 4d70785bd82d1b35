"""Work: what every peer does alike, so that only the way of doing it differs. No script here imports `framework`."""

from __future__ import annotations

import argparse
import json
import resource
import sys
from pathlib import Path

import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import StepLR
from torchvision import datasets, models, transforms

NORMALIZE = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
PLAIN = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), NORMALIZE])
SPLITS = ("train", "val")


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that all scripts share."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="what data.py wrote")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0, help="processes that load images")
    return parser


def image_folders(folder: Path, train: transforms.Compose = PLAIN) -> dict[str, datasets.ImageFolder]:
    return {"train": datasets.ImageFolder(folder / "train", train), "val": datasets.ImageFolder(folder / "val", PLAIN)}


def resnet18(folder: Path, classes: int) -> nn.Module:
    """A ResNet-18 with the common weights and a new head, the same in every script."""
    model = models.resnet18(weights=None)
    model.load_state_dict(torch.load(folder / "resnet18.pth", weights_only=True))
    torch.manual_seed(0)
    model.fc = nn.Linear(model.fc.in_features, classes)
    return model


def sgd(parameters: object) -> tuple[SGD, StepLR]:
    """The tutorial's optimizer and schedule."""
    optimizer = SGD(parameters, lr=0.001, momentum=0.9)
    return optimizer, StepLR(optimizer, step_size=7, gamma=0.1)


def peak_mb() -> float:
    """Peak resident size of this process so far, in MiB; right after the imports, what they take."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def report(accuracy: float, baseline_mb: float, seconds: dict[str, float]) -> None:
    """Prints the line of JSON that bench_peers.py reads; the last line of a script's output."""
    rounded = {name: round(value, 3) for name, value in seconds.items()}
    print(json.dumps({"accuracy": round(accuracy, 4), "baseline_mb": round(baseline_mb, 1),
                      "peak_mb": round(peak_mb(), 1), "seconds": rounded}))  # fmt: skip
