"""Checks of optimizers: what one must hold to be driven by the engine, through groups whose members move."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from framework.component import recipe_fields
from framework.contracts import Layout, Stage
from framework.groups import Groups
from framework.testing.case import Case, Check, check
from framework.testing.training import numbers, through_a_checkpoint, told, undisturbed

Shape = tuple[int, ...]

PLAIN: Mapping[str, Shape] = {"matrix": (4, 3), "vector": (4,), "last": (3, 4)}
"""Parameters that every optimizer takes; one check alone asks for others."""
SHAPES: Mapping[str, Shape] = {
    "a scalar (a logit scale)": (), "a vector (a bias)": (4,), "a matrix (a linear layer)": (4, 3),
    "three dimensions (positions of a transformer)": (1, 5, 4), "a kernel (a convolution)": (4, 3, 2, 2),
}  # fmt: skip
SLOPE = 0.1
"""The size of gradients: small beside parameters of size 1, so that weight decay shows even in their signs."""
DECAY = 0.1
WITHOUT_LR = 0.01
"""The learning rate for an optimizer that has none, of which one check alone tells."""


# ------------------------------------------------------------------------------------------------------ driving


def rate_of(case: Case) -> float:
    """The learning rate that a recipe with the case's keys has."""
    return float(getattr(case.config(), "lr", WITHOUT_LR))


def parameters(shapes: Iterable[Shape]) -> list[nn.Parameter]:
    """Parameters of these shapes, the same at each call."""
    return [nn.Parameter(numbers(shape, seed)) for seed, shape in enumerate(shapes)]


def built(case: Case, *groups: Sequence[nn.Parameter], scales: Sequence[float] = (), **keys: Any) -> Optimizer:
    """The optimizer of some groups, each as the engine gives it.

    Args:
        case: the optimizer.
        groups: the members of each.
        scales: what each group's learning rate is of the recipe's; absent: all of it.
        keys: of the recipe.
    """
    rates = [rate_of(case) * scale for scale in scales or [1.0] * len(groups)]
    made: Optimizer = case.config(**keys).build(
        [{"params": list(own), "lr": lr, "base_lr": lr} for own, lr in zip(groups, rates, strict=True)]
    )
    return made


def members(optimizer: Optimizer) -> list[nn.Parameter]:
    """Every parameter that it moves."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def walk(optimizer: Optimizer, seeds: Iterable[int]) -> None:
    """A step for each seed, with gradients that depend on the seed and a parameter's shape alone."""
    for seed in seeds:
        for parameter in members(optimizer):
            parameter.grad = SLOPE * numbers(parameter.shape, seed)
        step(optimizer, seed)


def step(optimizer: Optimizer, seed: int) -> None:
    """A step as the training loop takes it; what it draws at random is a function of its number."""
    torch.manual_seed(seed)
    with told("step() fails without a closure, on dense float32 gradients"):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def copies(those: Iterable[Tensor]) -> list[Tensor]:
    """What tensors hold now."""
    return [tensor.detach().clone() for tensor in those]


def distance(those: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """How far tensors have moved."""
    return math.sqrt(sum(float((now - old).square().sum()) for now, old in zip(those, before, strict=True)))


def are_finite(those: Iterable[Tensor]) -> bool:
    """Whether they hold numbers."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in those)


def has_decay(case: Case) -> bool:
    """Whether a recipe can set a weight decay."""
    return any(field.name == "weight_decay" for field in recipe_fields(case.the))


# ------------------------------------------------------------------------------------------------------- checks


@check
@undisturbed()
def has_a_learning_rate(case: Case) -> None:
    """The config has a key `lr`, and a group without a rate of its own gets it."""
    config = case.config()
    assert hasattr(config, "lr"), "the config class has no field `lr`, which groups and schedulers scale"
    optimizer = config.build([{"params": parameters([(4, 3)])}])
    found = optimizer.param_groups[0].get("lr")
    assert found == config.lr, f"with lr = {config.lr} a group has lr = {found}: pass `lr=self.lr` to the optimizer"


@check
@undisturbed()
def keeps_the_groups_that_it_is_given(case: Case) -> None:
    """It is a torch Optimizer, whose groups are those given: in order, with their members and rates."""
    first, second = parameters(PLAIN.values())[:1], parameters(PLAIN.values())[1:]
    optimizer = built(case, first, second, scales=(1.0, 0.1))
    assert isinstance(optimizer, Optimizer), f"build() gives a {type(optimizer).__name__}, no torch.optim.Optimizer"
    found = [[id(member) for member in group["params"]] for group in optimizer.param_groups]
    assert found == [[id(member) for member in group] for group in (first, second)], (
        "its param_groups are not the groups given: the engine moves parameters between them by position"
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    asked = [rate_of(case), rate_of(case) * 0.1]
    assert rates == asked, f"groups with rates {asked} have {rates}: a group's own lr stands above the key"


@check
@undisturbed()
def takes_groups_without_members(case: Case) -> None:
    """A group may be empty, as one is whose parameters a freezing policy trains later."""
    with told("it fails where a group has no parameter yet; leave the group in place, and empty"):
        optimizer = built(case, parameters(PLAIN.values()), [])
        walk(optimizer, range(2))


@check
@undisturbed()
def takes_every_shape_of_parameter(case: Case) -> None:
    """Scalars, vectors, matrices, and tensors of three and four dimensions all move, and stay finite."""
    for what, shape in SHAPES.items():
        own = parameters([shape])
        before = copies(own)
        with told(f"it cannot step {what}, a parameter of shape {shape}"):
            walk(built(case, own), range(3))
        assert are_finite(own), f"it makes {what}, a parameter of shape {shape}, infinite"
        assert distance(own, before), f"it never moves {what}, a parameter of shape {shape}"


@check
@undisturbed()
def lowers_a_convex_loss(case: Case) -> None:
    """Twenty steps lower the squared distance to a goal, at the recipe's learning rate or a smaller one."""
    changes = [_change(case, scale) for scale in (1.0, 0.1, 0.01)]
    assert min(changes) < 0, (
        f"twenty steps down a bowl raise the loss by {changes[0]:.3g}, and by {changes[-1]:.3g} at a hundredth of the "
        "learning rate: is the sign of the step turned, or the gradient never used?"
    )


def _change(case: Case, scale: float) -> float:
    own = parameters(PLAIN.values())
    goals = [numbers(shape, seed) for seed, shape in enumerate(PLAIN.values(), start=10)]
    optimizer = built(case, own, scales=(scale,))
    losses = []
    for number in range(21):
        loss = torch.stack([(now - goal).square().sum() for now, goal in zip(own, goals, strict=True)]).sum()
        losses.append(float(loss))
        loss.backward()  # type: ignore[no-untyped-call]
        step(optimizer, number)
    return losses[-1] - losses[0]


@check
@undisturbed()
def leaves_what_has_no_gradient(case: Case) -> None:
    """A parameter without a gradient is the same after a step, weight decay included."""
    moving, still = parameters([(4, 3), (4, 3)])
    decay: dict[str, Any] = {"weight_decay": DECAY} if has_decay(case) else {}
    optimizer = built(case, [moving, still], **decay)
    before = copies([still])
    moving.grad = SLOPE * numbers(moving.shape, seed=0)
    with told("step() fails where a parameter has no gradient; leave out those whose `grad` is None"):
        optimizer.step()
    assert torch.equal(still, before[0]), "it moves a parameter whose `grad` is None: leave such out, decay included"


@check
@undisturbed()
def stays_finite_without_a_slope(case: Case) -> None:
    """Gradients that are all zero, of parameters that are all zero, leave numbers."""
    own = [nn.Parameter(torch.zeros(shape)) for shape in PLAIN.values()]
    optimizer = built(case, own)
    for number in range(2):
        for parameter in own:
            parameter.grad = torch.zeros_like(parameter)
        step(optimizer, number)
    assert are_finite(own), "gradients of zero make parameters infinite: add an epsilon to what is divided by"


@check
@undisturbed()
def honours_the_rate_of_each_group(case: Case) -> None:
    """Of two groups that are alike, the one with a tenth of the learning rate moves less."""
    fast, slow = parameters([(4, 3)]), parameters([(4, 3)])
    optimizer = built(case, fast, slow, scales=(1.0, 0.1))
    before = copies(fast)
    walk(optimizer, range(3))
    far, near = distance(fast, before), distance(slow, before)
    assert near < 0.9 * far, (
        f"a group with a tenth of the learning rate moves {near:.3g}, and the other {far:.3g}: "
        'read group["lr"] in step(), not self.defaults["lr"]'
    )


@check
@undisturbed()
def follows_a_changed_rate(case: Case) -> None:
    """Steps become smaller when a scheduler lowers a group's learning rate to a tenth."""
    kept, lowered = (_later_steps(case, factor) for factor in (1.0, 0.1))
    # Where the rate is part of a momentum, as in RMSprop of TensorFlow, the steps taken before die away slowly.
    assert lowered < 0.9 * kept, (
        f"after its learning rate fell to a tenth, it moves {lowered:.3g} in three steps, and {kept:.3g} where it did "
        'not: read group["lr"] at each step; a scheduler would do nothing'
    )


def _later_steps(case: Case, factor: float) -> float:
    """How far three steps move, after three others and a change of rate; all down one slope, so that they add up."""
    own = parameters([(4, 3)])
    optimizer = built(case, own)
    walk(optimizer, [0] * 3)
    for group in optimizer.param_groups:
        group["lr"] *= factor
    before = copies(own)
    walk(optimizer, [0] * 3)
    return distance(own, before)


@check
@undisturbed()
def leaves_rates_to_the_scheduler(case: Case) -> None:
    """Its steps leave the learning rates of its groups as they are."""
    optimizer = built(case, parameters(PLAIN.values()))
    walk(optimizer, range(3))
    found = optimizer.param_groups[0]["lr"]
    assert found == rate_of(case), (
        f'three steps change group["lr"] from {rate_of(case)} to {found}, which is the scheduler\'s: '
        "keep a rate of its own beside it"
    )


@check
@undisturbed()
def honours_the_weight_decay_of_each_group(case: Case) -> None:
    """The key `weight_decay` shrinks parameters, and a group's own `weight_decay` of 0 stands above it."""
    if not has_decay(case):
        pytest.skip("it has no key weight_decay")
    plain, exempt_plain = _decayed(case, 0.0)
    shrunk, exempt = _decayed(case, DECAY)
    assert not torch.equal(plain, shrunk), f"weight_decay = {DECAY} changes nothing: pass it on, or leave the key out"
    # By half: some optimizers work out one size of step from all that they move, decayed or not.
    assert distance([exempt], [exempt_plain]) < 0.5 * distance([shrunk], [plain]), (
        f"a group with weight_decay = 0 shrinks where the key is {DECAY}, so that optimizer.no_decay does nothing: "
        'read group["weight_decay"] in step()'
    )


def _decayed(case: Case, decay: float) -> list[Tensor]:
    """Two parameters that were alike, after three steps with weight decay, but for the second's group."""
    own, exempt = parameters([(4, 3)]), parameters([(4, 3)])
    lr = rate_of(case)
    optimizer = case.config(weight_decay=decay).build([
        {"params": own, "lr": lr, "base_lr": lr},
        {"params": exempt, "lr": lr, "base_lr": lr, "weight_decay": 0.0},
    ])  # fmt: skip
    walk(optimizer, range(3))
    return copies([*own, *exempt])


@check
@undisturbed()
def lets_parameters_come_and_go(case: Case) -> None:
    """A parameter may join a group, leave it and return, as under a policy that unfreezes."""
    network = nn.ParameterDict(dict(zip(PLAIN, parameters(PLAIN.values()), strict=True)))
    layout = Layout(tuple(Stage(name, (name,), ()) for name in PLAIN), {}, frozenset(), {}, frozenset())
    groups = Groups(network, layout, (), {1.0, 0.1})
    few = {"matrix": 1.0, "vector": 0.1}
    optimizer = groups.build(layout.plan(few), rate_of(case), case.config().build, fixed=False)
    walk(optimizer, range(2))
    for number, joined in enumerate((True, False, True), start=1):
        groups.follow(layout.plan({**few, "last": 0.1} if joined else few))
        before = copies([network["last"]])
        words = "after a parameter has joined" if joined else "after a parameter has left"
        with told(f"it fails {words}: make a parameter's state when it first steps, in self.state[parameter]"):
            walk(optimizer, range(2 * number, 2 * number + 2))
        assert are_finite(network.values()), f"its parameters are not finite {words}"
        moved = not torch.equal(network["last"], before[0])
        assert moved == joined, (
            "a parameter that has left its groups still moves: step what is in self.param_groups alone"
            if moved
            else "a parameter that has joined a group never moves: read self.param_groups at each step"
        )


@check
@undisturbed()
def resumes_bit_for_bit(case: Case) -> None:
    """Built anew and given its saved state, it goes on as if it had never stopped."""
    for done in (0, 1, 3):
        own = parameters(PLAIN.values())
        optimizer = built(case, own)
        walk(optimizer, range(done))
        again = [nn.Parameter(tensor) for tensor in copies(own)]
        resumed = built(case, again)
        with told(f"a checkpoint cannot hold or give back its state_dict() after {done} steps"):
            resumed.load_state_dict(through_a_checkpoint(optimizer.state_dict()))
        walk(optimizer, range(done, done + 3))
        walk(resumed, range(done, done + 3))
        assert all(map(torch.equal, own, again)), (
            f"resumed after {done} steps, it goes on otherwise than without a stop: keep all that it remembers in "
            "self.state[parameter] or in its groups"
        )


CHECKS: tuple[Check, ...] = (
    has_a_learning_rate,
    keeps_the_groups_that_it_is_given,
    takes_groups_without_members,
    takes_every_shape_of_parameter,
    lowers_a_convex_loss,
    leaves_what_has_no_gradient,
    stays_finite_without_a_slope,
    honours_the_rate_of_each_group,
    follows_a_changed_rate,
    leaves_rates_to_the_scheduler,
    honours_the_weight_decay_of_each_group,
    lets_parameters_come_and_go,
    resumes_bit_for_bit,
)
