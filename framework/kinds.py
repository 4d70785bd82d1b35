"""Kinds: which modules of a network are norm layers, which keep statistics, and which parameters are biases."""

from __future__ import annotations

from torch import nn

_TORCH_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def norm_parameters(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """Norm layer -> the parameters that it owns itself.

    A norm layer is an instance of one of torch's norm classes, or of a class whose name, or a base's, contains "Norm";
    it owns parameters or buffers itself, and its parameters are vectors (of any number of dimensions of size one).
    """
    found = {}
    for name, module in network.named_modules():
        owned = dict(module.named_parameters(recurse=False))
        keeps = owned or dict(module.named_buffers(recurse=False))
        if keeps and is_norm(module) and all(p.numel() == max(p.shape, default=1) for p in owned.values()):
            found[name] = tuple(f"{name}.{key}".lstrip(".") for key in owned)
    return found


def is_norm(module: nn.Module) -> bool:
    """Whether a module is of a norm class."""
    return isinstance(module, _TORCH_NORMS) or any("Norm" in base.__name__ for base in type(module).__mro__)


def batch_norms(network: nn.Module) -> frozenset[str]:
    """The modules that keep running statistics: they own a buffer `running_mean` or `running_var`."""
    statistics = {"running_mean", "running_var"}
    return frozenset(
        name
        for name, module in network.named_modules()
        if statistics.intersection(key for key, _ in module.named_buffers(recurse=False))
    )


def buffer_owners(network: nn.Module) -> dict[str, str]:
    """Every buffer's full name -> the module that owns it."""
    return {name: name.rpartition(".")[0] for name, _ in network.named_buffers()}


def additive_biases(network: nn.Module) -> frozenset[str]:
    """One-dimensional parameters outside norm layers whose name ends in "bias" (`bias`, `q_bias`, `in_proj_bias`)."""
    of_norms = {name for names in norm_parameters(network).values() for name in names}
    return frozenset(
        name
        for name, parameter in network.named_parameters()
        if parameter.ndim == 1 and name.rpartition(".")[2].endswith("bias") and name not in of_norms
    )
