"""`fw run --explain`: the partition, the store and a prediction, before any work."""

from __future__ import annotations

import json
import re

import pytest

from framework import explain

SMALL = ["--set", "engine.threads=1", "--set", "engine.device=cpu", "--set", "data.size=64"]


@pytest.fixture
def explained(cli, here):
    def explain(*arguments: str) -> dict:
        done = cli("run", "smoke", "--explain", "--json", *SMALL, *arguments)
        assert done.code == 0, done.err
        return json.loads(done.out)

    return explain


def test_it_says_where_the_boundary_is_and_trains_nothing(cli, here) -> None:
    done = cli("run", "smoke", "--explain", *SMALL, "--set", "seed=22")  # random weights of its own, and so an entry
    assert done.code == 0, done.err
    assert "after backbone.layer3.1.relu (stage layer3)" in done.out
    assert "once per image" in done.out
    assert re.search(r"; (repaid after \d+ epochs?|the pass is not repaid)\n", done.out), "by the seconds measured"
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("features", "epochs", "words"),
    [
        (2.0, 1, "; repaid after 1 epoch"),
        (2.0, 3, "; repaid after 3 epochs"),
        (2.0, None, "; the pass is not repaid"),
        (0.0, 0, ""),
        (0.0, None, ""),
    ],
)
def test_it_says_when_the_pass_is_repaid(cli, monkeypatch, features: float, epochs: int | None, words: str) -> None:
    measured = {"features_s": features, "epoch_s": 1.0, "whole_epoch_s": 2.0, "repaid_after": epochs, "total_s": 4.0}
    monkeypatch.setattr(explain, "predict", lambda run, batch_s, store: measured)
    done = cli("run", "smoke", "--explain", *SMALL, "--set", "backbone.use=timm/test_resnet")
    assert f"the whole network would take 2.0 s for each{words}\n" in done.out


@pytest.mark.sweep
def test_its_facts_are_those_of_the_run(cli, here, explained) -> None:
    facts = explained("--set", "seed=21")  # random weights of its own, and so an entry
    assert cli("run", "smoke", *SMALL, "--set", "seed=21", "--out", "run").code == 0
    ran = json.loads((here / "run" / "summary.json").read_text())["partition"]
    assert {name: facts[name] for name in ("boundary", "bytes_per_image", "fixed_flops_share", "chunk")} == {
        name: ran[name] for name in ("boundary", "bytes_per_image", "fixed_flops_share", "chunk")
    }
    assert facts["store"]["missing"] == ran["images_computed"] > 0  # nothing had been stored
    assert [row["fixed"] for row in facts["stages"]] == [1, 1, 1, 1, 0, 0]
    assert explained("--set", "seed=21")["store"]["missing"] == 0


def test_it_says_why_there_is_no_boundary_or_no_store(explained) -> None:
    small = ("--set", "backbone.use=timm/test_resnet")
    full = explained(*small, "--set", "freezing.use=full")
    assert full["boundary"] is None
    assert full["reason"]
    assert full["predicted"]["total_s"] > 0
    drawn = explained(*small, "--set", "transform.train.use=augment")
    assert drawn["store"]["why_not"] == "transform.train draws anew at every pass (views = 0)"
    assert explained(*small, "--set", "engine.partition=off")["reason"] == 'engine.partition = "off"'


def test_a_mistake_is_an_error_as_for_a_run(cli, here) -> None:
    assert cli("run", "smoke", "--explain", "--set", "optimizer.lr=fast").code == 2
