"""The layout of networks: stages, neck and head, where every parameter and module goes, and what is left untouched."""

import random

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from framework.contracts import Grouping, Layout
from framework.errors import FwError
from framework.layout import derive_layout, flops_per_stage
from framework.network import Network

IMAGE = (3, 64, 64)


def plain(name: str, device: str = "meta") -> nn.Module:
    with torch.device(device):
        return torchvision.models.get_model(name, weights=None)


def stage_of(layout: Layout, module: str) -> str:
    (found,) = [stage.name for stage in layout.stages if module in stage.modules]
    return found


def stage_names(layout: Layout) -> list[str]:
    return [stage.name for stage in layout.stages]


def check_complete(network: nn.Module, layout: Layout) -> None:
    assert sorted(layout.parameters) == sorted(name for name, _ in network.named_parameters())
    modules = [name for stage in layout.stages for name in stage.modules]
    assert sorted(modules) == sorted(name for name, _ in network.named_modules() if name)
    assert len(set(stage_names(layout))) == len(layout.stages)
    assert layout.head.role == "head"


def resnet_network() -> Network:
    backbone = plain("resnet18")
    backbone.fc = nn.Identity()
    with torch.device("meta"):
        return Network(backbone, nn.Linear(512, 5))


def test_a_resnet_has_its_five_stages_and_the_new_head():
    network = resnet_network()
    layout = derive_layout(network, None, IMAGE)
    check_complete(network, layout)
    assert stage_names(layout) == ["stem", "layer1", "layer2", "layer3", "layer4", "head"]
    assert layout.stages[0].parameters == ("backbone.conv1.weight", "backbone.bn1.weight", "backbone.bn1.bias")
    assert layout.head.parameters == ("head.weight", "head.bias")


def test_modules_without_parameters_go_where_they_are_first_at_work():
    layout = derive_layout(resnet_network(), None, IMAGE)
    homes = {name: stage_of(layout, f"backbone.{name}") for name in ("relu", "maxpool", "avgpool", "layer2.0.relu")}
    assert homes == {"relu": "stem", "maxpool": "stem", "avgpool": "layer4", "layer2.0.relu": "layer2"}
    assert stage_of(layout, "backbone.fc") == "layer4"  # the place of the removed classifier


def test_a_container_of_several_stages_belongs_to_the_last():
    assert stage_of(derive_layout(resnet_network(), None, IMAGE), "backbone") == "layer4"
    layout = derive_layout(plain("vgg11_bn"), None, (3, 224, 224))
    assert stage_of(layout, "features") == "features.25"
    assert stage_of(layout, "classifier") == "head"


@pytest.mark.parametrize(
    ("name", "head", "neck"),
    [
        ("resnet18", "fc.weight", []),
        ("vgg11_bn", "classifier.6.weight", ["classifier.0.weight", "classifier.3.weight"]),
        ("mobilenet_v3_small", "classifier.3.weight", ["classifier.0.weight"]),
        ("densenet121", "classifier.weight", ["features.norm5.weight"]),
        ("convnext_tiny", "classifier.2.weight", ["classifier.0.weight"]),
        ("swin_t", "head.weight", ["norm.weight"]),
        ("vit_b_16", "heads.head.weight", ["encoder.ln.weight"]),
        ("squeezenet1_1", "classifier.1.weight", []),
    ],
)
def test_a_plain_model_ends_with_its_own_head(name: str, head: str, neck: list[str]):
    model = plain(name)
    layout = derive_layout(model, None, (3, 224, 224))
    check_complete(model, layout)
    assert layout.head.parameters[0] == head
    tail = [parameter for stage in layout.tail for parameter in stage.parameters]
    assert [parameter for parameter in tail if parameter.endswith("weight")] == neck


def test_a_transformer_keeps_its_tokens_and_positions_in_the_stem():
    layout = derive_layout(plain("vit_b_16"), None, (3, 224, 224))
    stem = layout.stages[0]
    assert stem.name == "stem"
    assert {"class_token", "encoder.pos_embedding", "conv_proj.weight"} <= set(stem.parameters)
    assert len(layout.body) == 13


def test_a_model_without_a_head_has_an_empty_one():
    model = plain("resnet18")
    model.fc = nn.Identity()
    layout = derive_layout(model, None, IMAGE)
    check_complete(model, layout)
    assert layout.head.parameters == ()
    assert stage_names(layout)[-2:] == ["layer4", "head"]


def test_a_network_with_a_head_without_parameters():
    network = resnet_network()
    network.head = nn.Identity()
    layout = derive_layout(network, None, IMAGE)
    check_complete(network, layout)
    assert layout.head.parameters == ()
    assert layout.head.modules == ("head",)


class Backwards(nn.Module):
    """Registers its layers in the opposite order of their use, and one that it never uses."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)
        self.fc = nn.Linear(8, 4)
        self.drop = nn.Dropout()
        for number in (4, 3, 2, 1):
            setattr(self, f"conv{number}", nn.Conv2d(3 if number == 1 else 8, 8, 3, padding=1))
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        for number in (1, 2, 3, 4):
            x = getattr(self, f"conv{number}")(x)
            x = self.drop(x * self.scale) if number == 2 else x
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def test_stages_follow_the_order_of_execution():
    model = Backwards()
    layout = derive_layout(model, None, IMAGE)
    check_complete(model, layout)
    names = [name for name in stage_names(layout) if name.startswith("conv")]
    assert names == ["conv1", "conv2", "conv3", "conv4"]
    assert stage_of(layout, "drop") == "conv2"
    assert "scale" in layout.stages[stage_names(layout).index("conv2")].parameters
    assert layout.head.parameters == ("fc.weight", "fc.bias")


class Shelves(nn.Module):
    """Keeps a dropout that it uses at the end beside the layers that it uses first."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Dropout()])
        self.late = nn.ModuleList([nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3)])
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (*self.early[:2], *self.late, self.early[2]):
            x = layer(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def test_a_container_waits_for_the_last_of_its_modules():
    layout = derive_layout(Shelves(), None, IMAGE)
    assert stage_names(layout) == ["early.0", "early.1", "late.0", "late.1", "head"]
    assert stage_of(layout, "early.2") == stage_of(layout, "early") == "late.1"


def fingerprint(network: nn.Module) -> object:
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in network.modules()]
    keys = [sorted(vars(module)) for module in network.modules()]
    tensors = {name: (tensor.data_ptr(), tensor._version, tensor.requires_grad)
               for name, tensor in network.state_dict(keep_vars=True).items()}  # fmt: skip
    return [module.training for module in network.modules()], hooks, keys, tensors


@pytest.mark.parametrize("training", [True, False])
def test_the_network_and_the_random_state_are_left_as_they_were(training: bool):
    import timm

    network = Network(timm.create_model("levit_128s", num_classes=0), nn.Linear(384, 3)).train(training)
    before, states = fingerprint(network), (torch.get_rng_state(), random.getstate())
    layout = derive_layout(network, None, (3, 224, 224))
    flops_per_stage(network, layout, (3, 224, 224))
    assert fingerprint(network) == before
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert not any(getattr(module, "attention_bias_cache", None) for module in network.modules())


def test_what_a_network_has_cached_in_a_forward_pass_does_not_stand_in_the_way():
    import timm

    network = Network(timm.create_model("levit_128s", num_classes=0), nn.Linear(384, 3)).eval()
    fresh = derive_layout(network, None, (3, 224, 224))
    network(torch.zeros(1, 3, 224, 224))
    assert any(getattr(module, "attention_bias_cache", None) for module in network.modules())
    assert derive_layout(network, None, (3, 224, 224)) == fresh


def test_a_grouping_is_completed_and_corrected_by_the_order_of_execution():
    network = resnet_network()
    backbone = network.backbone
    under = {part: tuple(f"{part}.{name}" for name, _ in backbone.get_submodule(part).named_parameters())
             for part in ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")}  # fmt: skip
    grouping = Grouping((under["conv1"], under["layer1"], under["layer3"], under["layer4"]), (*under["bn1"],))
    layout = derive_layout(network, grouping, IMAGE)
    check_complete(network, layout)
    assert not layout.tail  # bn1 is at work before the last stage: no neck
    assert "backbone.bn1.weight" in layout.stages[0].parameters
    assert "backbone.layer2.0.conv1.weight" in layout.stages[1].parameters  # nobody named it


def test_a_grouping_that_names_what_is_not_there_is_refused():
    with pytest.raises(FwError, match=r"not there: 'backbone\.layer9\.weight'"):
        derive_layout(resnet_network(), Grouping((("layer9.weight",),)), IMAGE)


def test_a_grouping_that_names_a_parameter_twice_is_refused():
    twice = Grouping((("conv1.weight",), ("conv1.weight",)))
    with pytest.raises(FwError, match=r"names a parameter twice: 'backbone.conv1.weight'"):
        derive_layout(resnet_network(), twice, IMAGE)


def test_an_image_that_the_network_does_not_take_is_a_clear_error():
    with pytest.raises(FwError, match=r"VisionTransformer does not accept an image of 3x64x64") as caught:
        derive_layout(plain("vit_b_16"), None, IMAGE)
    assert "image_size" in caught.value.hint


class GlobalResponseNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, width, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight * x + self.bias


class Kinds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.batch = nn.BatchNorm2d(8)
        self.bare = nn.BatchNorm2d(8, affine=False)
        self.response = GlobalResponseNorm(8)
        self.group = nn.GroupNorm(2, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.layer = nn.LayerNorm(8)
        self.nothing = nn.LayerNorm(8, elementwise_affine=False)
        self.gamma = nn.Parameter(torch.ones(8))
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.group(self.response(self.bare(self.batch(self.conv(x))))).flatten(2).transpose(1, 2)
        x = self.attention(x, x, x)[0] * self.gamma
        logits: Tensor = self.fc(self.nothing(self.layer(x)).mean(1))
        return logits


def test_norms_batch_norms_buffers_and_biases_are_told_apart():
    layout = derive_layout(Kinds(), None, (3, 16, 16))
    assert set(layout.norms) == {"batch", "bare", "response", "group", "layer"}
    assert layout.norms["bare"] == ()
    assert layout.norms["response"] == ("response.weight", "response.bias")
    assert layout.batch_norms == {"batch", "bare"}
    assert layout.buffers["bare.running_mean"] == "bare"
    assert len(layout.buffers) == 6
    assert layout.biases == {"conv.bias", "attention.in_proj_bias", "attention.out_proj.bias", "fc.bias"}


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_the_computation_of_the_stages_adds_up_to_the_networks(name: str):
    model = plain(name, "cpu").eval()
    layout = derive_layout(model, None, IMAGE)
    shares = flops_per_stage(model, layout, IMAGE)
    assert list(shares) == stage_names(layout)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *IMAGE))
    assert sum(shares.values()) == counter.get_total_flops()
    assert min(shares.values()) > 0
