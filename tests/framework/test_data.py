"""Subsets, duplicates, class balance, splitting and loading."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import framework as fw
from framework.data import (
    Batch,
    Images,
    balanced_order,
    class_counts,
    collate,
    duplicates,
    loader,
    refuse_duplicates,
    take_subset,
    thinned,
    with_val,
)
from framework.splits import cut_split, make_data
from framework.tables import Subset

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Numbers:
    """A picklable source: image i is full of the number i; those in `broken` cannot be read."""

    def __init__(self, count, broken=(), contents=None):
        self.count, self.broken, self.contents = count, frozenset(broken), contents or {}

    def load(self, index):
        if index in self.broken:
            raise fw.UnreadableImage("image file is truncated (3 bytes not processed)")
        return torch.full((3, 4, 4), index % 256, dtype=torch.uint8)

    def digest(self, index):
        return str(self.contents.get(index, index))


class Noise:
    def __call__(self, image):
        return image.float() + torch.rand(image.shape)


class Refuse:
    def __call__(self, image):
        raise fw.FwError("an image has 2 channels, the network takes 3", "set backbone.in_channels = 2")


def as_float(image):
    return image.float()


RANDOM = fw.Pipeline((Noise(),), 0)
PLAIN = fw.Pipeline((as_float,), 1)


def split_of(targets, source=None, start=0):
    source = source or Numbers(start + len(targets))
    indices = tuple(range(start, start + len(targets)))
    return fw.Split(source, indices, tuple(f"img-{i}" for i in indices), torch.as_tensor(targets))


def task_of(count, kind="multiclass"):
    return fw.Task(kind, tuple(LETTERS[:count]))


def data_of(train, val, test=None, source=None):
    sizes = [len(train), len(val), len(test or [])]
    source = source or Numbers(sum(sizes))
    splits = {"train": split_of(train, source), "val": split_of(val, source, sizes[0])}
    if test is not None:
        splits["test"] = split_of(test, source, sizes[0] + sizes[1])
    return make_data(task_of(3), splits)


# ------------------------------------------------------------------------------------------------ splits


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(5, 40), min_size=1, max_size=6),
    val=st.floats(0.05, 0.4),
    test=st.floats(0.0, 0.4),
    seed=st.integers(0, 5),
)
def test_every_class_is_divided_alike(counts, val, test, seed):
    targets = [column for column, count in enumerate(counts) for _ in range(count)]
    whole = split_of(targets)
    parts = cut_split(whole, task_of(len(counts)), seed, val=val, test=test)
    assert sorted(i for part in parts.values() for i in part.indices) == list(whole.indices)
    for name, share in (("val", val), ("test", test)):
        if share == 0:
            assert name not in parts
            continue
        for count, got in zip(counts, class_counts(parts[name], len(counts)), strict=True):
            assert abs(got - share * count) <= 1
    assert min(class_counts(parts["train"], len(counts))) >= 1


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=30, max_size=80),
    seed=st.integers(0, 5),
)
def test_a_group_never_crosses_splits(rows, seed):
    rows = [*rows, *((0, group) for group in range(10))]
    groups = [f"patient-{group}" for _, group in rows]
    whole = split_of([label for label, _ in rows])
    parts = cut_split(whole, task_of(3), seed, val=0.3, test=0.3, groups=groups)
    homes = [{groups[i] for i in part.indices} for part in parts.values()]
    assert not any(a & b for n, a in enumerate(homes) for b in homes[n + 1 :])
    assert sum(len(part) for part in parts.values()) == len(rows)
    assert all(len(part) for part in parts.values())


def test_groups_are_stratified_too():
    rows = [(group % 4, group) for group in range(200) for _ in range(3)]
    whole = split_of([label for label, _ in rows])
    parts = cut_split(whole, task_of(4), 0, val=0.2, test=0.2, groups=[str(group) for _, group in rows])
    assert class_counts(parts["val"], 4) == [30] * 4
    assert class_counts(parts["test"], 4) == [30] * 4


def test_groups_of_uneven_size_still_meet_the_shares():
    sizes = [40, 1, 20, 3, 2, 1, 1, 20, 40, 2] * 4
    rows = [(group // 10 % 2, group) for group, size in enumerate(sizes) for _ in range(size)]
    for seed in range(5):
        groups = [str(group) for _, group in rows]
        parts = cut_split(split_of([label for label, _ in rows]), task_of(2), seed, val=0.2, test=0.2, groups=groups)
        assert all(abs(len(parts[name]) / len(rows) - 0.2) < 0.02 for name in ("val", "test"))


def test_multilabel_split_keeps_the_share_of_each_label():
    rows = (
        torch.rand(400, 5, generator=torch.Generator().manual_seed(3)) < torch.tensor([0.5, 0.3, 0.2, 0.1, 0.03])
    ).float()
    task = task_of(5, "multilabel")
    parts = cut_split(split_of(rows), task, 1, val=0.25)
    assert abs(len(parts["val"]) - 100) <= 4
    for whole, got in zip(rows.sum(0).tolist(), class_counts(parts["val"], 5), strict=True):
        assert abs(got - whole / 4) <= 2


def test_splits_are_a_function_of_the_seed():
    whole, task = split_of([0, 1, 2] * 30), task_of(3)
    first, again, other = (cut_split(whole, task, seed, val=0.2, test=0.2) for seed in (0, 0, 1))
    assert first["val"].indices == again["val"].indices != other["val"].indices


def test_a_class_too_small_to_split_is_named():
    with pytest.raises(fw.FwError, match=r"1 class has too few images to be split into train, val, test: 'b' \(2\)"):
        cut_split(split_of([0] * 9 + [1] * 2), task_of(2), 0, val=0.2, test=0.2)


def test_shares_must_leave_something_to_train_on():
    with pytest.raises(fw.FwError, match="leave nothing to train"):
        cut_split(split_of([0] * 9), task_of(1), 0, val=0.6, test=0.4)


def test_too_few_groups_are_an_error():
    with pytest.raises(fw.FwError, match="2 groups are too few"):
        cut_split(split_of([0] * 9), task_of(1), 0, val=0.2, test=0.2, groups=["x"] * 5 + ["y"] * 4)


def test_fingerprint_sees_names_targets_contents_and_splits():
    base = data_of([0, 1, 2], [0, 1, 2])
    assert base.fingerprint == data_of([0, 1, 2], [0, 1, 2]).fingerprint
    others = [
        data_of([0, 1, 1], [0, 1, 2]),
        data_of([0, 1, 2], [0, 1, 2], source=Numbers(6, contents={4: "other"})),
        data_of([0, 1, 2, 0], [1, 2]),
        data_of([0, 1, 2], [0, 1, 2], [0]),
    ]
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 5


# ------------------------------------------------------------------------------------------------ subsets


def test_subset_per_class_and_in_all():
    data = data_of([0, 1, 2] * 20, [0] * 30 + [1] * 20 + [2] * 10, [0, 1, 2] * 4)
    fewer = take_subset(data, Subset(per_class=5, val=30), seed=0)
    assert class_counts(fewer.train, 3) == [5, 5, 5]
    assert class_counts(fewer.val, 3) == [15, 10, 5]
    assert len(fewer.test) == 12
    assert fewer.fingerprint != data.fingerprint
    assert set(fewer.train.indices) <= set(data.train.indices)
    assert fewer.notes[-2:] == ("subset: per_class = 5, by seed 0", "subset: val = 30, by seed 0")


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 25), min_size=3, max_size=3), seed=st.integers(0, 3), data=st.data())
def test_subset_in_all_is_exact_and_stratified(counts, seed, data):
    targets = [column for column, count in enumerate(counts) for _ in range(count)] or [0]
    total = data.draw(st.integers(1, len(targets)))
    fewer = take_subset(data_of(targets, [0, 1, 2]), Subset(train=total), seed)
    assert len(fewer.train) == total
    for whole, got in zip(class_counts(split_of(targets), 3), class_counts(fewer.train, 3), strict=True):
        assert abs(got - total * whole / len(targets)) < 1


def test_subset_of_a_multilabel_split():
    rows = (torch.rand(200, 3, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    task = task_of(3, "multilabel")
    data = make_data(task, {"train": split_of(rows), "val": split_of(rows[:20])})
    assert min(class_counts(take_subset(data, Subset(per_class=10), 0).train, 3)) >= 10
    total = take_subset(data, Subset(train=50), 0).train
    assert len(total) == 50
    for whole, got in zip(class_counts(data.train, 3), class_counts(total, 3), strict=True):
        assert abs(got - whole / 4) <= 3


def test_subset_is_drawn_by_the_seed():
    data = data_of([0, 1, 2] * 20, [0, 1, 2])
    drawn = [take_subset(data, Subset(per_class=5), seed) for seed in (0, 0, 1)]
    assert drawn[0].train.indices == drawn[1].train.indices != drawn[2].train.indices
    assert drawn[0].fingerprint == drawn[1].fingerprint != drawn[2].fingerprint


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        (Subset(per_class=4), r"class 'c' has 3 images, but data.subset.per_class asks for 4"),
        (Subset(val=99), r"data.subset.val asks for 99 images, but there are 3"),
        (Subset(test=1), r"data.subset.test is set, but the data set has no test split"),
        (Subset(per_class=1, train=9), r"data.subset has both per_class and train"),
    ],
)
def test_subsets_that_cannot_be_drawn(subset, message):
    with pytest.raises(fw.FwError, match=message) as raised:
        take_subset(data_of([0] * 9 + [1] * 9 + [2] * 3, [0, 1, 2]), subset, 0)
    assert raised.value.hint


# --------------------------------------------------------------------------------- duplicates and classes


@pytest.mark.parametrize(
    ("count", "images", "kept"),
    [(10, 5, [0, 2, 4, 6, 8]), (10, 4, [0, 2, 5, 7]), (10, 10, list(range(10))), (3, 256, [0, 1, 2]), (7, 1, [0])],
)
def test_images_are_thinned_at_even_distances_and_none_is_taken_twice(count, images, kept):
    data = data_of([0] * count, [0] * 3, [0])
    few = thinned(data, images)
    assert list(few.train.names) == [data.train.names[position] for position in kept]
    assert (len(few.val), len(few.test)) == (min(3, images), 1)
    assert thinned(data_of([0] * 4, [0]), 2).test is None


def test_validation_images_join_those_of_training_and_none_is_lost():
    """From two sources, by name, target and content; indices, which seed augmentation, are all different."""
    train, val, test = split_of([0, 1, 2]), split_of([1, 0], start=7), split_of([2], start=20)
    data = make_data(task_of(3), {"train": train, "val": val, "test": test})
    both = with_val(data)
    assert both.train.names == ("img-0", "img-1", "img-2", "img-7", "img-8")
    assert both.train.targets.tolist() == [0, 1, 2, 1, 0]
    assert [int(both.train.load(position)[0, 0, 0]) for position in range(5)] == [0, 1, 2, 7, 8]
    assert [both.train.digest(position) for position in range(5)] == ["0", "1", "2", "7", "8"]
    assert len(set(both.train.indices)) == 5
    assert (both.val, both.test) == (val, test)
    assert both.fingerprint != data.fingerprint
    assert "2 validation images are trained on, too" in both.notes
    taken = both.train.take([4, 0])
    assert (taken.names, int(taken.load(0)[0, 0, 0])) == (("img-8", "img-0"), 8)


def test_where_nothing_is_left_to_score_validation_images_do_not_join():
    with pytest.raises(fw.FwError, match=r"there is no test split to score"):
        with_val(data_of([0, 1], [0, 1]))


def test_duplicates_across_splits_are_found_and_refused():
    source = Numbers(9, contents={0: "same", 4: "same", 8: "same", 1: "twin", 2: "twin"})
    data = data_of([0, 1, 2, 0], [0, 1, 2], [0, 1], source)
    assert duplicates(data) == [
        ("train", "img-0", "val", "img-4"),
        ("train", "img-0", "test", "img-8"),
        ("val", "img-4", "test", "img-8"),
    ]
    with pytest.raises(fw.FwError, match=r"3 images are in two splits: 'img-0' of train is 'img-4' of val") as raised:
        refuse_duplicates(data)
    assert 'data.duplicates = "allow"' in raised.value.hint
    refuse_duplicates(data_of([0, 1, 2], [0, 1, 2], [0]))


def test_class_counts_of_both_tasks():
    assert class_counts(split_of([0, 2, 2]), 4) == [1, 0, 2, 0]
    assert class_counts(split_of([[1.0, 0.0], [1.0, 1.0]]), 2) == [2, 1]


def test_balanced_order_draws_every_class_alike():
    targets = torch.tensor([0] * 90 + [1] * 9 + [2] * 1)
    order = balanced_order(targets, task_of(3), torch.Generator().manual_seed(0))
    assert len(order) == 100
    assert sorted(Counter(targets[order].tolist()).values()) == [33, 33, 34]
    assert max(Counter(p for p in order if p < 90).values()) == 1
    assert set(Counter(p for p in order if 90 <= p < 99).values()) <= {3, 4}
    assert order != sorted(order)


def test_balanced_order_of_a_multilabel_split_balances_labels():
    rows = torch.zeros(100, 3)
    rows[:90, 0] = 1
    rows[88:95, 1] = 1
    task = task_of(3, "multilabel")
    order = balanced_order(rows, task, torch.Generator().manual_seed(0))
    assert len(order) == 100
    assert min(rows[order].sum(0)[:2]) >= 33
    assert sum(1 for p in order if p >= 95) in (33, 34)


def test_balanced_order_depends_on_its_generator_alone():
    targets = torch.tensor([0, 1, 1, 1, 0, 2] * 5)
    state = torch.get_rng_state()
    first, again, other = (balanced_order(targets, task_of(3), torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert first == again != other
    assert torch.equal(state, torch.get_rng_state())


# ------------------------------------------------------------------------------------------------ loading


def values(batches):
    return [(batch.positions.tolist(), batch.images, batch.skipped) for batch in batches]


def same(left, right):
    return len(left) == len(right) and all(
        a[0] == b[0] and torch.equal(a[1], b[1]) and a[2] == b[2] for a, b in zip(left, right, strict=True)
    )


def test_batches_do_not_depend_on_workers_and_draw_nothing_from_the_global_generator():
    images = Images(split_of([0] * 23), RANDOM, seed=1)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(0)).tolist()
    state = torch.get_rng_state()
    alone = values(loader(images, order, 3, 4))
    with_workers = values(loader(images, order, 3, 4, workers=2))
    assert torch.equal(state, torch.get_rng_state())
    assert same(alone, with_workers)
    assert [len(positions) for positions, _, _ in alone] == [4, 4, 4, 4, 4, 3]
    assert [p for positions, _, _ in alone for p in positions] == order


def test_random_steps_are_seeded_by_seed_epoch_and_index():
    split = split_of([0] * 6)
    moved = split.take([3, 1])
    at = Images(split, RANDOM, seed=1)[(2, 3)][0]
    assert torch.equal(at, Images(moved, RANDOM, seed=1)[(2, 0)][0])
    assert not torch.equal(at, Images(split, RANDOM, seed=1)[(3, 3)][0])
    assert not torch.equal(at, Images(split, RANDOM, seed=2)[(2, 3)][0])
    assert not torch.equal(at - 3, Images(split, RANDOM, seed=1)[(2, 4)][0] - 4)


@pytest.mark.parametrize("start", [0, 2, 5, 6])
def test_a_resumed_epoch_gives_the_batches_that_are_left(start):
    images, order = Images(split_of([0] * 23), RANDOM, seed=1), list(range(23))
    assert same(values(loader(images, order, 0, 4, start_batch=start)), values(loader(images, order, 0, 4))[start:])


def test_drop_last():
    images = Images(split_of([0] * 23), PLAIN, seed=1)
    assert [len(b) for b in loader(images, list(range(23)), 0, 4, drop_last=True)] == [4] * 5
    assert [len(b) for b in loader(images, list(range(20)), 0, 4, drop_last=True)] == [4] * 5
    assert list(loader(images, [], 0, 4, drop_last=True)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_skipped_and_listed(workers):
    images = Images(split_of([0] * 8, Numbers(8, broken=[1, 4, 5, 6, 7])), RANDOM, 0, on_error="skip")
    batches = list(loader(images, list(range(8)), 0, 4, workers))
    assert [b.positions.tolist() for b in batches] == [[0, 2, 3], []]
    reason = "image file is truncated (3 bytes not processed)"
    assert batches[0].skipped == ((1, reason),)
    assert [position for position, _ in batches[1].skipped] == [4, 5, 6, 7]
    assert batches[1].images.shape[0] == len(batches[1]) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_one_clear_error(workers):
    images = Images(split_of([0] * 8, Numbers(8, broken=[5])), RANDOM, 0)
    with pytest.raises(fw.FwError) as raised:
        list(loader(images, list(range(8)), 0, 4, workers))
    assert raised.value.message == "image 'img-5' cannot be read: image file is truncated (3 bytes not processed)"
    assert 'data.on_error = "skip"' in raised.value.hint


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_transform_refuses_comes_through_unchanged(workers):
    images = Images(split_of([0] * 8), fw.Pipeline((Refuse(),), 1), 0)
    with pytest.raises(fw.FwError, match="an image has 2 channels") as raised:
        list(loader(images, list(range(8)), 0, 4, workers))
    assert raised.value.hint == "set backbone.in_channels = 2"


def test_images_of_different_shapes_are_refused():
    with pytest.raises(fw.FwError, match=r"\(3, 4, 4\) and \(3, 5, 5\)"):
        collate([(torch.zeros(3, 4, 4), 0), (torch.zeros(3, 5, 5), 1)])


def test_batches_and_images_can_be_copied():
    batch = pickle.loads(pickle.dumps(Batch(torch.ones(1, 3, 2, 2), torch.tensor([4]), ((2, "empty"),))))
    assert batch.positions.tolist() == [4]
    assert batch.skipped == ((2, "empty"),)
    images = pickle.loads(pickle.dumps(Images(split_of([0] * 3), RANDOM, 0)))
    assert images[(0, 1)][1] == 1


INTERRUPTED = """
    import signal, sys, time
    import torch
    import framework as fw
    from framework.data import Images, loader

    class Slow:
        def load(self, index):
            time.sleep(0.02)
            return torch.zeros(3, 4, 4, dtype=torch.uint8)
        def digest(self, index):
            return str(index)

    def as_float(image):
        return image.float()

    def leave_in_the_middle(images):
        batches = loader(images, list(range(160)), 0, 4, workers=2)
        next(batches)
        raise SystemExit(3)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background jobs ignore it
    split = fw.Split(Slow(), tuple(range(160)), tuple(map(str, range(160))), torch.zeros(160, dtype=torch.int64))
    images = Images(split, fw.Pipeline((as_float,), 1), 0)
    caught = []
    if sys.argv[1] == "leave":
        try:
            leave_in_the_middle(images)
        except SystemExit as error:
            kept = error  # its traceback keeps the workers alive
            print("ready", flush=True)
            time.sleep(0.5)
            sys.exit(3)
    if sys.argv[1] == "finish":  # as a loop that writes its checkpoint at the next step
        signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
    seen = 0
    try:
        for batch in loader(images, list(range(160)), 0, 4, workers=2):
            seen += 1
            if seen == 2:
                print("ready", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(130)
    print(seen, *caught, flush=True)
"""


@pytest.mark.parametrize(
    ("manner", "number", "said", "code"),
    [
        ("stop", signal.SIGINT, "interrupted\n", 130),
        ("finish", signal.SIGTERM, "40 15\n", 0),
        ("leave", 0, "", 3),
    ],
)
def test_a_signal_to_the_group_reaches_the_parent_alone_and_no_worker_stays(manner, number, said, code):
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(INTERRUPTED), manner],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (code, said, "")
    assert not group_lives(process.pid)


def group_lives(group, seconds=5.0):
    """Whether a process of the group still runs after this many seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True
