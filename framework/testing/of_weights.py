"""Checks of a backbone's weights: which there are, where they are from, and how they are drawn."""

from __future__ import annotations

from typing import Any

import pytest

from framework.contracts import WeightsInfo, WeightsUnavailable
from framework.files import tensor_digests
from framework.recipe import PLAIN_WEIGHTS, WEIGHTS_SCHEMES
from framework.testing.builds import attempt, built, probe_of, working
from framework.testing.case import Case, Check, check
from framework.testing.probes import require_same_weights, require_whole_state, said

UNKNOWN = "no-such-weights"


@check
def refuses_unknown_weights(case: Case) -> None:
    """Weights that it does not know raise WeightsUnavailable, so that a recipe's next source is tried."""
    built(case)
    outcome = attempt(case, {"weights": UNKNOWN}).outcome
    found = said(outcome) if isinstance(outcome, Exception) else f"a {type(outcome).__name__}"
    assert isinstance(outcome, WeightsUnavailable), (
        f"weights = {UNKNOWN!r} gives {found}: look at request.weights, and raise fw.WeightsUnavailable(why) for "
        "every name that you do not know"
    )
    assert str(outcome).strip(), "fw.WeightsUnavailable says nothing: why are there no such weights, in one clause?"


@check
def lists_weights_by_names_of_its_own(case: Case) -> None:
    """`choices["weights"]` holds names, each once, and none that the framework answers itself."""
    names: Any = case.the.choices.get("weights", ())  # a str where somebody forgot the comma
    assert not isinstance(names, str), f'choices["weights"] is the string {names!r}, and no tuple of names'
    odd = [name for name in names if not isinstance(name, str) or not name.strip()]
    assert not odd, f'choices["weights"] holds {odd[0]!r}, which is no name'
    kept = [name for name in names if name.startswith(WEIGHTS_SCHEMES) or name in {*PLAIN_WEIGHTS} - {"package"}]
    assert not kept, f"the framework answers weights = {kept[0]!r} itself: take another name"
    twice = [name for name in names if list(names).count(name) > 1]
    assert not twice, f'choices["weights"] holds {twice[0]!r} twice'


def _listed(case: Case) -> tuple[str, ...]:
    """The first and the last of the weights that the component lists, of which there may be dozens."""
    names = tuple(case.the.choices.get("weights", ()))
    return tuple(dict.fromkeys((*names[:1], *names[-1:])))


@check
def unreachable_weights_are_unavailable(case: Case) -> None:
    """Where there is no network, weights that it lists are built from what is here, or raise WeightsUnavailable."""
    built(case)
    for name in _listed(case):
        made = attempt(case, {"weights": name})
        assert not made.failed or isinstance(made.outcome, WeightsUnavailable), (
            f"without a network, weights = {name!r} raises {said(made.outcome)}: raise fw.WeightsUnavailable(why), "
            "so that a recipe's next source is tried"
        )


@check
def says_where_its_weights_are_from(case: Case) -> None:
    """`Backbone.weights` tells where tensors were loaded from, and is None where they were drawn."""
    drawn = built(case).weights
    assert drawn is None, f"built without weights, Backbone.weights is {drawn}: the summary would call them pretrained"
    for name in _listed(case):
        made = attempt(case, {"weights": name})
        if made.failed:
            continue
        info = made.outcome.weights
        told = isinstance(info, WeightsInfo) and bool(info.name.strip())
        assert told, f"built with weights = {name!r}, Backbone.weights is {info!r}, which says not where they are from"
        assert info.file is None or info.file.is_file(), f"WeightsInfo.file is {info.file}, and there is no such file"


@check
def same_seed_same_weights(case: Case) -> None:
    """Drawn weights are a function of the seed of torch's generator."""
    require_same_weights(built(case, others=1).module, built(case, others=2).module)


@check
def another_seed_other_weights(case: Case) -> None:
    """Another seed draws other weights."""
    one, other = (dict(built(case, seed).module.named_parameters()) for seed in (0, 1))
    if not one:
        pytest.skip("it has no parameters")
    assert tensor_digests(one) != tensor_digests(other), (
        "seeds 0 and 1 draw the same weights, so that the seeds of a study would repeat nothing: leave it to the "
        "framework to seed torch's generator"
    )


@check
def state_dict_holds_all_that_counts(case: Case) -> None:
    """With the saved state dict of a backbone, one of another seed computes what that did."""
    require_whole_state(probe_of(working(case)), probe_of(working(case, seed=1)), case.folder)


CHECKS: tuple[Check, ...] = (
    refuses_unknown_weights,
    lists_weights_by_names_of_its_own,
    unreachable_weights_are_unavailable,
    says_where_its_weights_are_from,
    same_seed_same_weights,
    another_seed_other_weights,
    state_dict_holds_all_that_counts,
)
