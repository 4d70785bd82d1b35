"""Template: a graph without the tensors of its network, laid over other networks that were made alike."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import attrs
from torch import Tensor, fx, nn

from framework.capture import Capture
from framework.files import tensor_digest
from framework.freezing import all_tensors
from framework.tracing import plain_attributes


@attrs.frozen(eq=False)
class Template:
    """What was captured of one network, for every other whose modules compute alike; it holds no network's tensors.

    Attributes:
        graph: the operations.
        batch: as `Capture.batch`.
        names: attribute that a node reads -> what the network calls that tensor.
        constants: attribute -> what the graph brings itself.
    """

    graph: fx.Graph
    batch: Any
    names: Mapping[str, str]
    constants: Mapping[str, Any]

    @classmethod
    def of(cls, captured: Capture) -> Template:
        """A graph as it is, but for its tensors."""
        read = {str(node.target): attrgetter(str(node.target))(captured.module)
                for node in captured.nodes if node.op == "get_attr"}  # fmt: skip
        names = {target: captured.names[id(value)] for target, value in read.items() if id(value) in captured.names}
        constants = {target: value for target, value in read.items() if target not in names}
        return cls(copy.deepcopy(captured.module.graph), captured.batch, names, constants)

    def over(self, network: nn.Module) -> Capture:
        """The same graph over the tensors of a network, which shares none of its nodes with any other."""
        tensors = all_tensors(network)
        read = {**self.constants, **{target: tensors[name] for target, name in self.names.items()}}
        module = fx.GraphModule(read, copy.deepcopy(self.graph))
        return Capture.of(module, self.batch, {id(tensor): name for name, tensor in tensors.items()})


def constants_of(network: nn.Module) -> list[str]:
    """What a graph may take over as constants: plain attributes of modules, tensors by their digests."""
    own = {id(tensor) for tensor in all_tensors(network).values()}
    return [tensor_digest(value) if isinstance(value, Tensor) else repr(value)
            for value in plain_attributes(network)
            if id(value) not in own and isinstance(value, Tensor | bool | int | float | str)]  # fmt: skip


def images_as(images: Tensor) -> list[str]:
    """What a graph may depend on of the images that it was captured with."""
    return [str(fact) for fact in (tuple(images.shape), images.stride(), images.dtype, images.device)]
