"""The engine's edges: unusual networks, unreadable images, full disks, and what a mistake in a plugin looks like."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import safetensors.torch
import torch
from torch import nn

import framework as fw
from framework import checkpoint, feed, train
from framework.assemble import set_threads
from framework.catalog import PluginSource
from framework.codec import pack, unpack
from framework.display import NullDisplay
from framework.feed import Fed
from framework.freezing import FrozenNetwork, all_tensors
from framework.groups import Groups
from framework.index import Index, build_index
from framework.layout import derive_layout
from framework.network import Network
from framework.recipe import load_recipe
from framework.running import Run
from framework.runs import resume_run, start_run

TINY = [
    *("data.images=20", "data.classes=2", "data.size=64", "train.batch_size=6", "train.epochs=1"),
    *("backbone.use=timm/test_vit", "backbone.image_size=64", "engine.threads=1", "engine.device=cpu"),
    *("engine.partition=off", "train.report=false"),
]


@pytest.fixture
def go(index, tmp_path: Path):
    def run(*overrides: str, plugins: Index = index, name: str = "run") -> dict:
        recipe = load_recipe("smoke", plugins, [*TINY, *overrides])
        return start_run(recipe, plugins, tmp_path / name, False, NullDisplay())

    return run


# ---------------------------------------------------------------------------------------------- networks


class Shared(nn.Module):
    """A convolution and a norm layer that are used twice, under two names each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.second, self.again = nn.Conv2d(3, 3, 3, padding=1), self.norm
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.again(self.second(self.norm(self.first(x)))).mean((2, 3))


class Parametrized(nn.Module):
    """Spectral norm moves buffers of its own whenever it is used in train mode; weight norm has none."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))
        self.second = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 3, 3))

    def forward(self, x):
        return self.second(self.first(x)).mean((2, 3))


class Lazy(nn.Module):
    """Makes a buffer at the first image."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3)

    def forward(self, x):
        if not hasattr(self, "cache"):
            self.register_buffer("cache", torch.ones(1), persistent=False)
        return (self.first(x) * self.cache).mean((2, 3))


def trained(backbone: nn.Module, only_head: bool = False) -> FrozenNetwork:
    """Two optimizer steps, weight decay and momentum included, by the groups that a run has."""
    torch.manual_seed(0)
    network = Network(backbone, nn.Linear(3, 2))
    layout = derive_layout(network, None, (3, 16, 16))
    frozen = FrozenNetwork(network, layout)
    frozen.apply(layout.plan(layout.head.parameters if only_head else layout.parameters))
    frozen.auditor.open(frozen.plan)
    groups = Groups(network, layout, (), {1.0})
    optimizer = groups.build(
        frozen.plan, 0.1, lambda given: torch.optim.SGD(given, lr=0.1, momentum=0.9, weight_decay=0.1), True
    )
    for _ in range(2):
        frozen.train()
        network(torch.randn(4, 3, 16, 16)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return frozen


@pytest.mark.parametrize("network", [Shared, Parametrized, Lazy])
@pytest.mark.parametrize("only_head", [False, True])
def test_shared_parametrized_and_lazy_tensors_train_or_stay(network: type[nn.Module], only_head: bool) -> None:
    frozen = trained(network(), only_head)
    report = frozen.audit()
    assert report["frozen_moved_names"] == []
    assert set(report["trainable_never_moved"]) <= {"backbone.first.bias"}, "a bias before a batch norm has no gradient"
    assert all(p.requires_grad is not only_head for p in frozen.network.backbone.parameters())
    if not only_head:
        assert report["frozen_tensors"] == 0


def test_a_frozen_parameter_that_was_replaced_is_found() -> None:
    frozen = trained(Parametrized(), only_head=True)
    nn.utils.parametrize.remove_parametrizations(frozen.network.backbone.second, "weight")
    moved = frozen.audit()["frozen_moved_names"]
    assert "backbone.second.parametrizations.weight.original0" in moved


def test_what_leaves_the_plan_neither_decays_nor_drifts_and_begins_afresh_when_it_comes_back() -> None:
    network = Network(Shared(), nn.Linear(3, 2))
    layout = derive_layout(network, None, (3, 16, 16))
    whole, head = layout.plan(layout.parameters), layout.plan(layout.head.parameters)
    frozen, groups = FrozenNetwork(network, layout), Groups(network, layout, (), {1.0})
    optimizer = groups.build(whole, 0.1, lambda given: torch.optim.AdamW(given, weight_decay=0.5), False)

    def step(plan: fw.Plan) -> None:
        frozen.apply(plan)
        groups.follow(plan)
        frozen.train()
        network(torch.randn(4, 3, 16, 16)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step(whole)
    before = {name: tensor.clone() for name, tensor in all_tensors(network.backbone).items()}
    step(head)
    assert all(torch.equal(tensor, before[name]) for name, tensor in all_tensors(network.backbone).items())
    step(whole)
    counts = {name: float(optimizer.state[p]["step"]) for name, p in network.named_parameters()}
    assert {counts[name] for name in head.trainable} == {3.0}
    assert {counts[name] for name in counts.keys() - head.trainable.keys()} == {1.0}


# ---------------------------------------------------------------------------------------------- training


def test_the_gradient_of_a_step_is_the_mean_over_the_images_that_could_be_read(go, monkeypatch) -> None:
    """Of a step of 2 x 6 images 2 can be read: its gradient is not a sixth of theirs."""
    made_up: list[float] = []
    read, make_up = feed.read_batches, train.make_up_for_skipped

    def first_of_each(*arguments):
        for batch in read(*arguments):
            bad = tuple((int(position), "damaged") for position in batch.positions[1:])
            yield Fed(batch.inputs[:1], batch.targets[:1], batch.positions[:1], bad)

    def size(parameters: list[nn.Parameter]) -> float:
        return sum(float(p.grad.square().sum()) for p in parameters) ** 0.5

    def noted(run: Run, parameters: list[nn.Parameter]) -> None:
        before = size(parameters)
        make_up(run, parameters)
        made_up.append(size(parameters) / before)

    monkeypatch.setattr(feed, "read_batches", first_of_each)
    monkeypatch.setattr(train, "make_up_for_skipped", noted)
    go("train.accumulate=2", "engine.partition=off")
    assert made_up == pytest.approx([6.0])


@pytest.mark.parametrize(
    ("values", "best"), [([math.nan, 0.1, 0.2], 3), ([math.nan] * 3, 1), ([0.3, math.nan, 0.2], 1)]
)
def test_no_number_is_never_better(go, monkeypatch, values: list[float], best: int) -> None:
    validate = train.validate
    monkeypatch.setattr(train, "validate", lambda run: {**validate(run), "accuracy": values[run.standing.epoch]})
    assert go("train.epochs=3")["metrics"]["best"]["epoch"] == best


@pytest.mark.parametrize("monitor", ["val.loss", "val.ece"])
def test_less_is_better_of_a_loss_and_a_calibration_error(go, monkeypatch, monitor: str) -> None:
    validate, name = train.validate, monitor.removeprefix("val.")
    monkeypatch.setattr(train, "validate", lambda run: {**validate(run), name: [3.0, 1.0, 2.0][run.standing.epoch]})
    summary = go("train.epochs=3", f"train.monitor={monitor}", "metric=[{use='accuracy'}, {use='ece'}]")
    assert summary["metrics"]["best"]["epoch"] == 2


def test_an_epoch_without_a_batch_is_an_error_that_says_why(go) -> None:
    with pytest.raises(fw.FwError, match=r"an epoch has no batch: there are 12 training images"):
        go("train.batch_size=64", "train.drop_last=true")


def test_schedulers_are_told_of_epochs_that_are_done(go, monkeypatch) -> None:
    from framework.schedule import Schedule

    told: list[int] = []
    after_epoch = Schedule.after_epoch
    monkeypatch.setattr(
        Schedule, "after_epoch", lambda self, at, metric: (told.append(at.epoch), after_epoch(self, at, metric))
    )
    go("train.epochs=2")
    assert told == [1, 2]


def test_a_loss_that_is_no_number_reaches_no_checkpoint(go, tmp_path: Path, monkeypatch) -> None:
    """On an accelerator the loss is looked at now and then; a checkpoint looks too."""
    monkeypatch.setattr(train, "SETTLE_EVERY", {True: 100, False: 100})
    save = checkpoint.save

    def spoilt(run: Run) -> None:
        if run.standing.step == 2:
            run.note_loss(torch.tensor(math.nan), None, 1)
        save(run)

    monkeypatch.setattr(checkpoint, "save", spoilt)
    with pytest.raises(fw.FwError, match="the loss is nan"):
        go("train.batch_size=4", "train.checkpoint_every=1")
    saved = checkpoint.read(tmp_path / "run")
    assert saved is not None
    assert saved[1]["standing"]["step"] == 1


# ------------------------------------------------------------------------------------------------- files


FULL = """
import resource, signal, sys, torch
from pathlib import Path
from framework import log
from framework.errors import FwError
from framework.files import save_tensors, write_text
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
folder = Path(sys.argv[1])
for write in (lambda: save_tensors(folder / "a.safetensors", {"a": torch.zeros(9999)}, {}),
              lambda: write_text(folder / "a.txt", "x" * 5000),
              lambda: log._append(folder / "a.jsonl", {"a": "x" * 5000})):
    try:
        write()
    except FwError as error:
        print(error)
"""


def test_a_full_disk_is_a_clear_error_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=False)
    assert done.stdout.count("cannot write") == 3, done.stderr
    assert "fw resume" in done.stdout
    assert {file.name for file in tmp_path.iterdir()} <= {"a.jsonl"}


def test_a_disk_that_fills_up_in_a_run_costs_one_checkpoint(index, go, tmp_path: Path, monkeypatch) -> None:
    save_file, wrote = safetensors.torch.save_file, []

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        wrote.append(path)
        if sum("checkpoint" in str(path) for path in wrote) > 1:
            raise safetensors.SafetensorError("No space left on device (os error 28)")
        save_file(tensors, path, metadata)

    with monkeypatch.context() as patched:
        patched.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(fw.FwError, match="No space left"):
            go("train.checkpoint_every=1")
    assert [file.name for file in (tmp_path / "run").iterdir() if file.name.startswith(".")] == []
    assert resume_run(tmp_path / "run", index, NullDisplay())["status"] == "done"


class StopBefore(NullDisplay):
    """Ends the process's part in the run before the first step, as a kill would."""

    def started(self, facts) -> None:
        raise KeyboardInterrupt


def test_a_run_killed_before_its_first_checkpoint_resumes_bit_equal_and_tidies_up(index, go, tmp_path: Path) -> None:
    from interruptions import difference

    more = [
        "backbone.use=torchvision/resnet18",
        "backbone.image_size=32",
        "freezing={use='frozen', norm='recalibrate'}",
    ]
    go(*more, name="whole")
    recipe = load_recipe("smoke", index, [*TINY, *more])
    with pytest.raises(KeyboardInterrupt):
        start_run(recipe, index, tmp_path / "run", False, StopBefore())
    half = tmp_path / "run" / ".checkpoint.safetensors.a1b2c3d4"
    half.write_bytes(b"half")
    resume_run(tmp_path / "run", index, NullDisplay())
    assert difference(tmp_path / "whole", tmp_path / "run") == ""
    assert not half.exists()


def test_packed_states_keep_every_key_and_refuse_what_they_cannot_hold() -> None:
    state = {"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1), 3: (1, 2)}
    packed, tensors = pack(state, "policy")
    again = unpack(packed, tensors)
    assert (float(again["a"]["b"]), float(again["a.b"])) == (0.0, 1.0)
    assert again[3] == (1, 2)
    with pytest.raises(fw.FwError, match=r"policy\.seen, a set"):
        pack({"seen": {1}}, "policy")


# ------------------------------------------------------------------------------------- plugins and users


@attrs.frozen(kw_only=True)
class Failing:
    """Raises what nobody foresaw."""

    def build(self, *arguments: Any) -> Any:
        raise KeyError("gone")


@attrs.frozen(kw_only=True)
class Wide:
    """A head that expects one feature more than there is."""

    def build(self, feature_dim: int, task: fw.Task) -> nn.Module:
        return nn.Linear(feature_dim + 1, task.num_classes)


@attrs.frozen(kw_only=True)
class NoRate:
    """An optimizer without a key lr."""

    def build(self, groups: Any) -> Any:
        return torch.optim.SGD(groups, lr=0.1)


@attrs.frozen(kw_only=True)
class NoSide:
    """A metric that does not say which side is better."""

    def build(self, task: fw.Task) -> Any:
        return attrs.make_class("Metric", {"higher_is_better": attrs.field(default=None)})()


class Plugin:
    """A plugin full of mistakes."""

    @fw.hookimpl
    def fw_heads(self):
        return [fw.Component("wide", Wide), fw.Component("failing", Failing)]

    @fw.hookimpl
    def fw_freezing_policies(self):
        return [fw.Component("failing", Failing)]

    @fw.hookimpl
    def fw_optimizers(self):
        return [fw.Component("no_rate", NoRate)]

    @fw.hookimpl
    def fw_metrics(self):
        return [fw.Component("no_side", NoSide)]


@pytest.fixture(scope="module")
def plugged(index) -> Index:
    return Index((*index.plugins, *build_index([PluginSource.of(Plugin(), "mistakes", "acme-mistakes")]).plugins))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["head={use='wide'}"], r"the network fails on images of shape .* in train mode: mat1 and mat2"),
        (["optimizer={use='no_rate'}"], "the optimizer 'no_rate' has no key lr"),
        (["metric=[{use='no_side'}]", "train.monitor=val.no_side"], "does not say whether more is better"),
    ],
)
def test_a_plugins_mistake_that_is_foreseen_is_one_sentence(go, plugged, tmp_path, overrides, said: str) -> None:
    with pytest.raises(fw.FwError, match=said):
        go(*overrides, plugins=plugged)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("table", ["head", "freezing"])
def test_one_that_nobody_foresaw_names_the_table(go, plugged, tmp_path, table: str) -> None:
    with pytest.raises(KeyError) as error:
        go(f"{table}={{use='failing'}}", plugins=plugged)
    assert error.value.__notes__ == [f"in [{table}] use = 'failing'"]
    assert not (tmp_path / "run").exists()


def test_a_model_is_loaded_where_its_device_is_gone_and_predicts_batch_by_batch(go, tmp_path: Path) -> None:
    go()
    recipe = tmp_path / "run" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('device = "cpu"', 'device = "cuda:7"'))
    model = fw.load(tmp_path / "run", device="cpu")
    drawn: list[int] = []
    sizes: list[int] = []
    model.module.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))

    def images():
        for number in range(10):
            assert number - sum(sizes) < 4, "no image is opened long before its batch"
            drawn.append(number)
            yield torch.zeros(3, 64, 64, dtype=torch.uint8)

    assert model.predict(images(), batch_size=4).shape == (10, 2)
    assert sizes == [4, 4, 2]
    assert model.predict([]).shape == (0, 2)


@pytest.mark.parametrize(("stated", "expected"), [("1", 1), ("2,4", 2)])
def test_threads_are_as_the_environment_says(monkeypatch, stated: str, expected: int) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", stated)
    set_threads(0)
    assert torch.get_num_threads() == expected
    for useless in ("", "many", "0"):
        monkeypatch.setenv("OMP_NUM_THREADS", useless)
        set_threads(0)
        assert torch.get_num_threads() >= 1
    torch.set_num_threads(before)
