"""torchvision's classification models as backbones: rules, weights, channels, sizes and errors."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.ops import StochasticDepth

import framework as fw
from framework.layout import derive_layout
from framework.network import Network
from fw_torchvision.backbones import backbone_family
from fw_torchvision.surgery import drop_auxiliary_heads


def build(name: str, device: str = "cpu", **request: Any) -> fw.Backbone:
    component = backbone_family().member(name)
    with torch.device(device):
        backbone: fw.Backbone = component.config(**component.fixed).build(fw.BackboneRequest(**request))
    return backbone


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download folder, and a network on which nothing answers."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def keep(hub: Path, name: str, weights: str = "DEFAULT") -> nn.Module:
    """A freshly drawn model whose tensors lie where torchvision would have downloaded its weights to."""
    member = torchvision.models.get_model_weights(name)[weights]
    arguments = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, weights=None, **arguments).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
    torch.save(model.state_dict(), hub / member.url.rpartition("/")[2])
    return model


def test_all_classification_models_are_offered_with_their_weights():
    components = list(backbone_family().members())
    assert len(components) >= 80
    by_name = {component.name: component for component in components}
    assert by_name["torchvision/resnet50"].choices["weights"] == ("IMAGENET1K_V1", "IMAGENET1K_V2", "DEFAULT")
    with pytest.raises(fw.FwError, match="did you mean 'resnet18'"):
        backbone_family().member("resnet_18")


@pytest.mark.parametrize(
    ("name", "feature_dim", "stages"),
    [
        ("vgg11_bn", 4096, 10),
        ("densenet121", 1024, 10),
        ("mobilenet_v3_small", 1024, 15),
        ("vit_b_16", 768, 15),
        ("convnext_tiny", 768, 10),
        ("swin_t", 768, 10),
    ],
)
def test_the_classifier_is_removed_and_the_layout_derived(name: str, feature_dim: int, stages: int):
    backbone = build(name, "meta")
    assert backbone.feature_dim == feature_dim
    with torch.device("meta"):
        network = Network(backbone.module, nn.Linear(feature_dim, 7))
    layout = derive_layout(network, backbone.grouping, (3, *backbone.input.size))
    assert len(layout.stages) == stages
    assert sorted(layout.parameters) == sorted(name for name, _ in network.named_parameters())


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1"])
def test_features_are_what_the_class_scores_were_made_from(name: str):
    torch.manual_seed(1)
    backbone = build(name)
    torch.manual_seed(1)
    model = torchvision.models.get_model(name, weights=None).eval()
    images = torch.rand(2, 3, 64, 64)
    features = backbone.module.eval()(images)
    assert features.shape == (2, backbone.feature_dim)
    if name == "resnet18":
        assert torch.equal(model.fc(features), model(images))
    else:
        expected = torch.relu(model.classifier[0](model.features(images))).mean((2, 3))
        assert torch.allclose(features, expected, atol=1e-6)


def test_auxiliary_heads_that_come_with_the_weights_are_dropped():
    with torch.device("meta"):
        model = torchvision.models.inception_v3(weights=None, aux_logits=True, init_weights=False)
    assert [name for name, _ in model.named_parameters() if name.startswith("AuxLogits")]
    drop_auxiliary_heads(model)
    assert not [name for name, _ in model.named_parameters() if name.startswith("AuxLogits")]
    assert fw.output_shape(model.train(), (3, 299, 299)) == (1, 1000)


def test_auxiliary_heads_are_dropped_and_train_mode_gives_one_tensor():
    backbone = build("googlenet", options={"init_weights": False}, image_size=(64, 64))
    assert not [name for name, _ in backbone.module.named_parameters() if "aux" in name]
    assert backbone.module.train()(torch.rand(2, 3, 64, 64)).shape == (2, 1024)


def test_weights_are_read_from_the_download_folder(hub: Path):
    model = keep(hub, "googlenet")
    backbone = build("googlenet", weights="IMAGENET1K_V1")
    info = backbone.weights
    assert info is not None
    assert (info.name, info.licence) == ("GoogLeNet_Weights.IMAGENET1K_V1", "unknown")
    assert info.file is not None
    assert info.file.parent == hub
    model.transform_input = True  # as torchvision sets it for these weights
    images = torch.rand(2, 3, 96, 96)
    assert torch.equal(model.fc(backbone.module.eval()(images)), model(images))


def test_what_the_weights_expect_of_an_image_is_taken_from_their_own_preprocessing():
    spec = build("regnet_y_400mf").input
    preset = torchvision.models.get_model_weights("regnet_y_400mf").DEFAULT.transforms()
    assert spec.size == (preset.crop_size[0],) * 2
    assert spec.crop_pct == preset.crop_size[0] / preset.resize_size[0]
    assert (list(spec.mean), list(spec.std)) == (preset.mean, preset.std)
    assert spec.interpolation == "bilinear"


@pytest.mark.sweep  # the smallest vision transformer has 88 million parameters
def test_position_embeddings_are_resized_to_the_image(hub: Path):
    model = keep(hub, "vit_b_32")
    same = build("vit_b_32", weights="IMAGENET1K_V1")
    assert torch.equal(same.module.encoder.pos_embedding, model.encoder.pos_embedding)
    small = build("vit_b_32", weights="IMAGENET1K_V1", image_size=(96, 96))
    assert small.module.encoder.pos_embedding.shape == (1, 10, 768)
    assert small.input.size == (96, 96)
    assert torch.equal(small.module.conv_proj.weight, model.conv_proj.weight)
    assert torch.equal(small.module.encoder.pos_embedding[:, 0], model.encoder.pos_embedding[:, 0])
    assert small.module(torch.rand(1, 3, 96, 96)).shape == (1, 768)


def test_a_grey_image_gives_the_features_of_the_same_image_in_colour(hub: Path):
    keep(hub, "squeezenet1_1")
    colour = build("squeezenet1_1", weights="DEFAULT").module.eval()
    grey = build("squeezenet1_1", weights="DEFAULT", in_channels=1)
    six = build("squeezenet1_1", weights="DEFAULT", in_channels=6)
    image = torch.rand(1, 1, 64, 64)
    expected = colour(image.expand(1, 3, 64, 64))
    assert torch.allclose(grey.module.eval()(image), expected, atol=1e-5)
    assert torch.allclose(six.module.eval()(image.expand(1, 6, 64, 64)), expected, atol=1e-5)
    assert (grey.input.channels, len(grey.input.mean), len(six.input.std)) == (1, 1, 6)


def test_inceptions_own_change_of_colours_moves_into_the_spec_for_other_channels(hub: Path):
    keep(hub, "googlenet")
    backbone = build("googlenet", weights="DEFAULT", in_channels=1)
    assert not backbone.module.transform_input
    assert (backbone.input.mean, backbone.input.std) == ((0.5,), (0.5,))


def test_a_download_that_cannot_be_made_is_one_clause(hub: Path):
    before = socket.getdefaulttimeout()
    with pytest.raises(fw.WeightsUnavailable, match=r"cannot download https://\S+resnet18\S+: Connection refused"):
        build("resnet18", weights="DEFAULT", timeout=2.0)
    assert socket.getdefaulttimeout() == before
    assert not list(hub.iterdir())


def test_a_damaged_download_is_one_clause(hub: Path):
    keep(hub, "squeezenet1_1")
    (file,) = hub.iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(fw.WeightsUnavailable, match="is not good"):
        build("squeezenet1_1", weights="DEFAULT")


def test_unknown_weights_name_near_ones():
    with pytest.raises(fw.WeightsUnavailable, match="did you mean 'IMAGENET1K_V1'"):
        build("resnet18", weights="imagenet1k_v1")


def test_rates_reach_the_layers_that_have_them():
    module = build("convnext_tiny", "meta", drop_path_rate=0.3).module
    depths = [part.p for part in module.modules() if isinstance(part, StochasticDepth)]
    assert max(depths) == pytest.approx(0.3)
    module = build("efficientnet_b0", "meta", drop_rate=0.4).module
    assert [part.p for part in module.modules() if isinstance(part, nn.Dropout)] == [0.4]


@pytest.mark.parametrize(
    ("name", "request_keys", "message"),
    [
        ("resnet18", {"drop_rate": 0.5}, "resnet18 has no dropout"),
        ("resnet18", {"options": {"depth": 3}}, "resnet18 has no argument 'depth'"),
        ("mobilenet_v3_small", {"options": {"dropuot": 0.1}}, "mobilenet_v3_small has no argument 'dropuot'"),
        ("resnet18", {"options": {"num_classes": 3}}, "options cannot set 'num_classes'"),
        ("resnet18", {"options": {"weights": "DEFAULT"}}, "options cannot set 'weights'"),
        ("swin_t", {"drop_path_rate": 0.5}, "stochastic_depth_prob"),
        ("vit_b_16", {"image_size": (224, 192)}, "square images only, not 224x192"),
        ("vit_b_16", {"image_size": (100, 100)}, "Input shape indivisible by patch size"),
        ("inception_v3", {"image_size": (32, 32)}, "does not accept an image of 3x32x32"),
    ],
)
def test_what_a_model_does_not_take_is_a_clear_error(name: str, request_keys: dict[str, Any], message: str):
    with pytest.raises(fw.FwError, match=message) as caught:
        build(name, "meta", **request_keys)
    assert caught.value.hint
