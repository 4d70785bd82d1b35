"""Capture: a network's forward pass as a graph of torch's own operations over the network's own tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

import attrs
import torch
from torch import Tensor, fx, nn

from framework.files import tensor_digest
from framework.freezing import all_tensors
from framework.tracing import twin

DROPOUTS = frozenset({"aten::dropout", "aten::feature_dropout", "aten::alpha_dropout", "aten::feature_alpha_dropout"})


class NotCaptured(Exception):
    """A network could not be turned into a graph; the message says why, in one clause."""


@attrs.frozen(eq=False)
class Capture:
    """A forward pass as a graph.

    Attributes:
        module: the graph module; its parameters and buffers are the network's own, not copies.
        image: the node of the images (N, C, H, W).
        batch: the symbol that stands for N in the shapes of the nodes.
        names: the network's tensors, by identity.
        roots: node -> the node that first had its memory.
        writes: node -> earlier operations that wrote to memory that it reads, where its arguments do not show it.
    """

    module: fx.GraphModule
    image: fx.Node
    batch: Any
    names: Mapping[int, str]
    roots: Mapping[fx.Node, fx.Node]
    writes: Mapping[fx.Node, tuple[fx.Node, ...]]

    @classmethod
    def of(cls, module: fx.GraphModule, batch: Any, names: Mapping[int, str]) -> Capture:
        """A graph in which whoever reads what was written in place reads what the write gives."""
        memory = roots(module.graph)
        return cls(module, _image(module.graph), batch, names, memory, _unseen_writes(module.graph, memory))

    @property
    def nodes(self) -> list[fx.Node]:
        """The operations, in the order in which they run."""
        return list(self.module.graph.nodes)

    def inputs(self, node: fx.Node) -> tuple[fx.Node, ...]:
        """What a node depends on: its arguments, and what was written before to their memory through other views."""
        return (*node.all_input_nodes, *self.writes.get(node, ()))

    @property
    def output(self) -> fx.Node:
        """The node that gives the logits."""
        return self.nodes[-1]

    def name_of(self, node: fx.Node) -> str:
        """What the network calls the tensor that a node reads; a constant of the graph is called by its content."""
        value = attrgetter(str(node.target))(self.module)
        if not isinstance(value, Tensor):
            return f"attribute {node.target}"
        return self.names.get(id(value)) or f"constant {tensor_digest(value)}"


def capture(network: nn.Module, images: Tensor) -> Capture:
    """The forward pass of a network in the modes it is in; the network is left as it was.

    It is exported by `torch.export` (non-strict, with a dynamic number of images) from a twin that shares every
    parameter and buffer, so that what modules cache while they are traced stays with the twin.

    Args:
        network: in the modes that matter.
        images: (2, C, H, W), on the network's device; only the shape counts.

    Raises:
        NotCaptured: the export fails, or it holds for one number of images only.
    """
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    try:
        copied = twin(network)
        copied._forward_pre_hooks.clear()  # the modes are kept by one on the original; here they are as they are
        with torch.random.fork_rng(devices=[]):
            program = torch.export.export(copied, (images,), dynamic_shapes=shapes, strict=False)
    except Exception as error:  # a network may do anything that export refuses
        raise NotCaptured(f"torch.export refuses it: {_first_line(error)}") from error
    module = program.module()
    graph = module.graph
    _remove_guards(graph)
    _follow_in_place(graph)
    size = _image(graph).meta["val"].shape[0]
    if not isinstance(size, torch.SymInt):
        raise NotCaptured("its forward pass fixes the number of images")
    names = {id(tensor): name for name, tensor in all_tensors(network).items()}
    return Capture.of(module, size.node.expr, names)


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.partition("\n")[0][:200]


def _image(graph: fx.Graph) -> fx.Node:
    found: fx.Node = graph.find_nodes(op="placeholder")[0]
    return found


def _remove_guards(graph: fx.Graph) -> None:
    """Checks of the input's shape, which the partition makes itself."""
    for node in list(graph.nodes):
        if node.op == "call_module":
            graph.erase_node(node)


def _follow_in_place(graph: fx.Graph) -> None:
    """After `y = relu_(x)` whoever read x reads y, so that the graph says what depends on the write."""
    order = {node: position for position, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        written = written_argument(node)
        if written is None or written.op == "get_attr" or not returns_what_it_writes(node):
            continue
        for user in list(written.users):
            if order[user] > order[node]:
                user.replace_input_with(written, node)


def roots(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Node -> the node that first had its memory: views and in-place operations lead back to what they share."""
    found: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        shared = _shares_with(node)
        found[node] = found[shared] if shared is not None else node
    return found


def _shares_with(node: fx.Node) -> fx.Node | None:
    if does_nothing(node) or str(node.target) == "<built-in function getitem>":
        return node.all_input_nodes[0]
    schema = schema_of(node)
    if schema is None or not any(found.alias_info for found in schema.returns):
        return None
    aliased = [found.name for found in schema.arguments if found.alias_info]
    first = argument(node, aliased[0]) if aliased else None
    return first if isinstance(first, fx.Node) else None


def _unseen_writes(graph: fx.Graph, memory: Mapping[fx.Node, fx.Node]) -> dict[fx.Node, tuple[fx.Node, ...]]:
    """For each node the earlier writes to memory that it reads: `mask[1:3] = 2` writes to a view that nobody reads."""
    writers: dict[fx.Node, list[fx.Node]] = {}
    found: dict[fx.Node, tuple[fx.Node, ...]] = {}
    for node in graph.nodes:
        seen = node.all_input_nodes
        roots_read = dict.fromkeys(memory[one] for one in seen)  # in order: the hash of a network is a key of the store
        before = [writer for root in roots_read for writer in writers.get(root, ())]
        unseen = tuple(dict.fromkeys(writer for writer in before if writer not in seen))
        if unseen:
            found[node] = unseen
        for written in arguments_written(node):
            writers.setdefault(memory[written], []).append(node)
    return found


def module_of(node: fx.Node) -> str:
    """The full name of the innermost module in which a node is computed."""
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    return str(stack[-1]).removeprefix("L['self'].").removeprefix("L['self']") if stack else ""


def schema_of(node: fx.Node) -> Any:
    """The schema of a node's operation; None for what is no operation of torch (sizes, items of a tuple)."""
    return getattr(node.target, "_schema", None) if node.op == "call_function" else None


def argument(node: fx.Node, name: str) -> Any:
    """The value that a node gives an argument of its operation, its default included; None if it has no such."""
    schema = schema_of(node)
    for position, found in enumerate(schema.arguments if schema else ()):
        if found.name == name:
            if position < len(node.args):
                return node.args[position]
            return node.kwargs.get(name, found.default_value)
    return None


def arguments_written(node: fx.Node) -> Iterator[fx.Node]:
    """The nodes whose tensors an operation writes to, as its schema says."""
    schema = schema_of(node)
    for position, found in enumerate(schema.arguments if schema else ()):
        if found.alias_info is not None and found.alias_info.is_write:
            value = node.args[position] if position < len(node.args) else node.kwargs.get(found.name)
            if isinstance(value, fx.Node):
                yield value


def written_argument(node: fx.Node) -> fx.Node | None:
    """The first tensor that an operation writes to."""
    return next(arguments_written(node), None)


def returns_what_it_writes(node: fx.Node) -> bool:
    """Whether the result of an operation is the very tensor it wrote to, as in `relu_`."""
    schema = schema_of(node)
    returns: Any = schema.returns if schema else ()
    return len(returns) == 1 and returns[0].alias_info is not None and returns[0].alias_info.is_write


def does_nothing(node: fx.Node) -> bool:
    """Whether a node is a dropout that drops nothing: it gives its input, and draws no random number."""
    schema = schema_of(node)
    return schema is not None and schema.name in DROPOUTS and not (argument(node, "p") and argument(node, "train"))


def is_random(node: fx.Node) -> bool:
    """Whether a node draws random numbers: an operation that can, and is not told to drop nothing."""
    schema = schema_of(node)
    if schema is None or torch.Tag.nondeterministic_seeded not in node.target.tags:  # type: ignore[union-attr]
        return False
    evaluates = argument(node, "train") is False or argument(node, "training") is False
    drops_nothing = argument(node, "dropout") == 0 or argument(node, "dropout_p") == 0
    return not (evaluates or drops_nothing or does_nothing(node))
