"""The loop of PyTorch's transfer learning tutorial, as published, but for its plots.

Source: https://docs.pytorch.org/tutorials/beginner/transfer_learning_tutorial.html. The tutorial's batches are of 4;
here they have the size that every contestant uses.
"""

from __future__ import annotations

import os
import time
from tempfile import TemporaryDirectory

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from work import NORMALIZE, PLAIN, arguments, image_folders, peak_mb, report, resnet18, sgd

AUGMENTED = transforms.Compose(
    [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor(), NORMALIZE]
)


def train_model(model, loaders, sizes, criterion, optimizer, scheduler, num_epochs, device):
    with TemporaryDirectory() as folder:
        best_path = os.path.join(folder, "best_model_params.pt")
        torch.save(model.state_dict(), best_path)
        best_acc = 0.0
        for epoch in range(num_epochs):
            print(f"Epoch {epoch}/{num_epochs - 1}")
            for phase in ["train", "val"]:
                model.train(phase == "train")
                running_loss, running_corrects = 0.0, 0
                for inputs, labels in loaders[phase]:
                    inputs = inputs.to(device)  # noqa: PLW2901 - as published
                    labels = labels.to(device)  # noqa: PLW2901
                    optimizer.zero_grad()
                    with torch.set_grad_enabled(phase == "train"):
                        outputs = model(inputs)
                        _, preds = torch.max(outputs, 1)
                        loss = criterion(outputs, labels)
                        if phase == "train":
                            loss.backward()
                            optimizer.step()
                    running_loss += loss.item() * inputs.size(0)
                    running_corrects += torch.sum(preds == labels.data)
                if phase == "train":
                    scheduler.step()
                epoch_loss = running_loss / sizes[phase]
                epoch_acc = running_corrects.double() / sizes[phase]
                print(f"{phase} Loss: {epoch_loss:.4f} Acc: {epoch_acc:.4f}")
                if phase == "val" and epoch_acc > best_acc:
                    best_acc = epoch_acc
                    torch.save(model.state_dict(), best_path)
        model.load_state_dict(torch.load(best_path, weights_only=True))
    return float(epoch_acc)


def main() -> None:
    baseline = peak_mb()
    parser = arguments(__doc__)
    parser.add_argument("--frozen", action="store_true", help="the network as fixed feature extractor: fc alone trains")
    parser.add_argument("--plain", action="store_true", help="without the augmentation")
    options = parser.parse_args()

    device = torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"
    images = image_folders(options.folder, PLAIN if options.plain else AUGMENTED)
    loaders = {
        split: DataLoader(images[split], batch_size=options.batch_size, shuffle=True, num_workers=options.workers)
        for split in ["train", "val"]
    }
    sizes = {split: len(images[split]) for split in ["train", "val"]}
    model = resnet18(options.folder, len(images["train"].classes))
    if options.frozen:
        for param in model.parameters():
            param.requires_grad = False
        for param in model.fc.parameters():
            param.requires_grad = True
    model = model.to(device)
    optimizer, scheduler = sgd(model.fc.parameters() if options.frozen else model.parameters())

    since = time.perf_counter()
    accuracy = train_model(model, loaders, sizes, nn.CrossEntropyLoss(), optimizer, scheduler, options.epochs, device)
    report(accuracy, baseline, {"train": time.perf_counter() - since})


if __name__ == "__main__":
    main()
