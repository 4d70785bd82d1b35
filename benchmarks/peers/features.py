"""The feature script that a skilled user writes by hand: one pass of the frozen network, then the head alone.

Source: https://docs.pytorch.org/tutorials/beginner/transfer_learning_tutorial.html (the network as fixed feature
extractor), without computing the same features in every epoch.
"""

from __future__ import annotations

import time

import torch
from torch import nn
from torch.utils.data import DataLoader
from work import SPLITS, arguments, image_folders, peak_mb, report, resnet18, sgd


@torch.inference_mode()
def features_of(net, loader, device, dtype):
    """Features (N, C) and labels (N,) of every image."""
    features, labels = [], []
    for images, targets in loader:
        inputs = images.to(device, dtype, memory_format=torch.channels_last)
        features.append(net(inputs).float())
        labels.append(targets.to(device))
    return torch.cat(features), torch.cat(labels)


def train_head(head, train, val, epochs, batch_size):
    """Trains a linear head on stored features and validates it after each epoch."""
    (features, labels), (val_features, val_labels) = train, val
    optimizer, scheduler = sgd(head.parameters())
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), device=labels.device).split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(features[batch]), labels[batch]).backward()
            optimizer.step()
        scheduler.step()
        with torch.no_grad():
            accuracy = (head(val_features).argmax(1) == val_labels).float().mean().item()
    return accuracy


def main() -> None:
    baseline = peak_mb()
    parser = arguments(__doc__)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    options = parser.parse_args()

    since = time.perf_counter()
    device = torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"
    dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
    images = image_folders(options.folder)
    net = resnet18(options.folder, len(images["train"].classes))
    head, net.fc = net.fc.to(device), nn.Identity()
    # cast once: autocast would cast the weights again for every batch
    net = net.to(device, dtype, memory_format=torch.channels_last).eval()
    train, val = (
        features_of(net, DataLoader(images[split], options.batch_size, num_workers=options.workers), device, dtype)
        for split in SPLITS
    )
    passed = time.perf_counter()
    train, val = (tuple(map(torch.clone, split)) for split in (train, val))  # autograd takes no inference tensors
    accuracy = train_head(head, train, val, options.epochs, options.batch_size)
    report(accuracy, baseline, {"features": passed - since, "train": time.perf_counter() - passed})


if __name__ == "__main__":
    main()
