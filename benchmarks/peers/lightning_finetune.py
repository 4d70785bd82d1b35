"""Transfer learning with Lightning 2: a module whose frozen part stays in evaluation mode and keeps no graph.

Sources: https://lightning.ai/docs/pytorch/stable/advanced/finetuning.html (a frozen extractor in eval mode, run under
no_grad) and https://lightning.ai/docs/pytorch/stable/common/trainer.html.
"""

from __future__ import annotations

import logging
import time
import warnings

import lightning as L  # noqa: N812
import torch
from torch import nn
from torch.utils.data import DataLoader
from work import arguments, image_folders, peak_mb, report, resnet18, sgd

FROZEN_CHILDREN = {"head": 9, "last_stage": 7, "all": 0}
"""How many of the children of a ResNet, in their order, are frozen: all before fc, all before layer4, none."""


class FineTuner(L.LightningModule):
    """A network of which the first children are frozen."""

    def __init__(self, net: nn.Module, frozen_children: int, memory_format: torch.memory_format) -> None:
        super().__init__()
        children = list(net.children())
        children.insert(-1, nn.Flatten())
        frozen_children += frozen_children == len(children) - 2  # the flattening belongs to what comes before the head
        self.frozen = nn.Sequential(*children[:frozen_children]).eval().requires_grad_(False)
        self.trained = nn.Sequential(*children[frozen_children:])
        self.memory_format = memory_format
        self.to(memory_format=memory_format)

    def on_train_epoch_start(self) -> None:
        self.frozen.eval()

    def forward(self, images):
        with torch.no_grad():
            features = self.frozen(images.contiguous(memory_format=self.memory_format))
        return self.trained(features)

    def training_step(self, batch, index):
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def validation_step(self, batch, index):
        images, labels = batch
        correct = (self(images).argmax(1) == labels).float().mean()
        self.log("accuracy", correct, on_epoch=True, batch_size=len(labels))

    def configure_optimizers(self):
        optimizer, scheduler = sgd(self.trained.parameters())
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


def main() -> None:
    baseline = peak_mb()
    parser = arguments(__doc__)
    parser.add_argument("--train", choices=FROZEN_CHILDREN, default="head")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--memory-format", choices=["contiguous", "channels_last"], default="channels_last")
    options = parser.parse_args()

    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    images = image_folders(options.folder)
    loaders = [
        DataLoader(images[split], options.batch_size, shuffle=split == "train", num_workers=options.workers)
        for split in ("train", "val")
    ]
    format_name = "contiguous_format" if options.memory_format == "contiguous" else options.memory_format
    net = resnet18(options.folder, len(images["train"].classes))
    module = FineTuner(net, FROZEN_CHILDREN[options.train], getattr(torch, format_name))
    trainer = L.Trainer(
        devices=1, max_epochs=options.epochs, precision=options.precision, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip

    since = time.perf_counter()
    trainer.fit(module, *loaders)
    report(float(trainer.callback_metrics["accuracy"]), baseline, {"train": time.perf_counter() - since})


if __name__ == "__main__":
    main()
