"""FID's Inception against torchvision with patched pools, LPIPS against torchmetrics, weights files, the stand-in."""

import contextlib
import inspect
import re
from pathlib import Path

import pytest
import torch
import torchmetrics.functional.image.lpips as theirs
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from iedit_model.metrics.errors import MetricInputError, MetricWeightsError
from iedit_model.metrics.feature_networks import (
    FeatureNetwork,
    build_fid_inception,
    inception_features,
    load_inception_network,
    read_weights,
    vgg_network,
)
from iedit_model.metrics.lpips_network import Lpips, Trunk, load_lpips
from iedit_model.models.vgg import VGG


def pictures(seed: int, count: int = 2, size: int = 48) -> Tensor:
    return torch.rand((count, 3, size, size), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def inception_state() -> dict[str, Tensor]:
    """Random weights in the published layout: torchvision's names, 1008 classes, no counters of batch norm."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision.models.Inception3(num_classes=1008, aux_logits=False, init_weights=False)
        for layer in model.modules():
            if isinstance(layer, torch.nn.Conv2d):
                # torchvision's default lets the signal die out on its way through untrained layers
                torch.nn.init.kaiming_normal_(layer.weight)
    return {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}


def test_inception_is_torchvisions_with_tensorflows_pools(
    inception_state: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights-inception-2015-12-05-6726825d.pth"
    torch.save(inception_state, path)
    network, images = load_inception_network(path), pictures(1)
    ours = network(images)
    stock = torchvision.models.Inception3(num_classes=1008, aux_logits=False, init_weights=False).eval()
    stock.load_state_dict(inception_state, strict=False)
    stock.fc = torch.nn.Identity()  # pyright: ignore[reportAttributeAccessIssue] - its input is what we compare
    plain_average, num_pools = functional.avg_pool2d, []

    def tensorflow_pool(x: Tensor, *, kernel_size: int, stride: int, padding: int) -> Tensor:
        num_pools.append(1)
        if len(num_pools) == 9:
            return functional.max_pool2d(x, kernel_size, stride, padding)
        # the share of real pixels in each window undoes the count of the padding
        share = plain_average(torch.ones_like(x), kernel_size, stride, padding)
        return plain_average(x, kernel_size, stride, padding) / share

    monkeypatch.setattr("torchvision.models.inception.F.avg_pool2d", tensorflow_pool)
    resized = functional.interpolate(images, (299, 299), mode="bilinear", align_corners=False)
    with torch.no_grad():
        expected = stock(resized * 2 - 1)
    assert len(num_pools) == 9
    assert ours.mean() > 0.05
    torch.testing.assert_close(ours, expected.double(), rtol=1e-4, atol=1e-5)
    monkeypatch.undo()
    with torch.no_grad():
        assert not torch.allclose(stock(resized * 2 - 1).double(), ours, rtol=1e-2, atol=1e-3)


def test_inception_features_do_not_depend_on_the_batch(inception_state: dict[str, Tensor]) -> None:
    model = build_fid_inception()
    model.load_state_dict(inception_state, strict=False)
    images = pictures(2, count=3)
    together = inception_features(model, images)
    alone = torch.cat([inception_features(model, images[row : row + 1]) for row in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_weights_of_another_network_are_refused(inception_state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"Conv2d_1a_3x3.conv.weight": torch.zeros(1)}, path)
    with pytest.raises(MetricWeightsError, match=r"lacks .* weights of another network"):
        load_inception_network(path)
    wrong = {**inception_state, "Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 5, 5)}
    torch.save(wrong, tmp_path / "wrong.pth")
    with pytest.raises(MetricWeightsError, match=r"as \(32, 3, 5, 5\), expected \(32, 3, 3, 3\)"):
        load_inception_network(tmp_path / "wrong.pth")


class RunsCode:
    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (Path("/nonexistent/touched"),))


def test_a_weights_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": RunsCode()}, tmp_path / "bad.pth")
    with pytest.raises(MetricWeightsError, match="cannot be read as weights"):
        read_weights(tmp_path / "bad.pth")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.pth", None, "is no file"),
        ("empty.pth", b"", "cannot be read"),
        ("junk.pth", b"junk" * 10, "cannot be read"),
        ("junk.safetensors", b"junk" * 10, "cannot be read"),
        ("weights.bin", b"junk", "ends in '.bin'"),
    ],
)
def test_unreadable_weights_are_refused(tmp_path: Path, name: str, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(MetricWeightsError, match=said):
        read_weights(tmp_path / name)


@given(where=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), cut=st.booleans(), zipped=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_weights_are_read_or_refused_by_name(
    tmp_path: Path, where: float, byte: int, cut: bool, zipped: bool
) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"a": torch.rand(3, 4), "b": torch.rand(2)}, path, _use_new_zipfile_serialization=zipped)
    content = bytearray(path.read_bytes())
    place = int(where * len(content))
    content[place:] = b"" if cut else bytes([byte]) + content[place + 1 :]
    path.write_bytes(content)
    # any other error than the named one fails the test
    with contextlib.suppress(MetricWeightsError):
        assert all(bool(torch.isfinite(value).all()) for value in read_weights(path).values())


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.tensor([1.0, torch.nan])}, tmp_path / "nan.safetensors")
    with pytest.raises(MetricWeightsError, match="not finite in a"):
        read_weights(tmp_path / "nan.safetensors")


def test_weights_above_the_bound_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iedit_model.metrics.feature_networks.MAX_BYTES", 10)
    (tmp_path / "large.pth").write_bytes(b"x" * 11)
    with pytest.raises(MetricWeightsError, match="has 11 bytes, at most 10"):
        read_weights(tmp_path / "large.pth")


def trunk_file(folder: Path, trunk: Trunk) -> Path:
    names = {"vgg": "vgg16-397923af.pth", "alex": "alexnet-owt-7be5be79.pth", "squeeze": "squeezenet1_1-b8a52dc0.pth"}
    return folder / names[trunk]


@pytest.mark.parametrize("trunk", ["alex", "squeeze"])
def test_lpips_is_torchmetrics_with_the_same_trunk(trunk: Trunk, tmp_path: Path) -> None:
    reference = theirs._LPIPS(net=trunk, pnet_rand=True, eval_mode=True)
    # "slice1.0.weight" in one, "slices.0.0.weight" in the other; behind the slice stand torchvision's names
    state = reference.net.state_dict()
    layers = {re.sub(r"^slices?\.?\d\.", "features.", key): value for key, value in state.items()}
    torch.save(layers, trunk_file(tmp_path, trunk))
    source, edited = pictures(3), pictures(4)
    expected = reference(source, edited, normalize=True).flatten().double()
    model = load_lpips(tmp_path, trunk=trunk)
    torch.testing.assert_close(model(source, edited), expected, rtol=1e-4, atol=1e-7)
    reference.spatial = True
    expected_map = reference(source, edited, normalize=True).squeeze(1).double()
    torch.testing.assert_close(model.distance_map(source, edited), expected_map, rtol=1e-4, atol=1e-7)
    assert model(source, source).tolist() == [0.0, 0.0]
    assert expected.min() > 1e-3


def test_lpips_slices_of_vgg_end_at_the_published_layers() -> None:
    """relu1_2, 2_2, 3_3, 4_3, 5_3: the last convolution of each block, after its ReLU."""
    model = Lpips("vgg")
    kinds = [type(layer).__name__ for layer in model.features]
    assert [kinds[end - 1] for end in (4, 9, 16, 23, 30)] == ["ReLU"] * 5
    assert [kinds[end] for end in (4, 9, 16, 23)] == ["MaxPool2d"] * 4
    assert "range(4, 9)" in inspect.getsource(theirs.Vgg16)
    assert "range(23, 30)" in inspect.getsource(theirs.Vgg16)


def test_masked_lpips_averages_the_map_and_counts_empty_masks(tmp_path: Path) -> None:
    layers = torchvision.models.squeezenet1_1(weights=None).state_dict()
    torch.save(layers, trunk_file(tmp_path, "squeeze"))
    model = load_lpips(tmp_path, trunk="squeeze")
    source, edited = pictures(5, count=3), pictures(6, count=3)
    masks = torch.zeros(3, 48, 48)
    masks[1, 4:20, 8:40], masks[2] = 1, 1
    values, whole = model.masked(source, edited, masks), model.distance_map(source, edited)
    inside, outside = values["lpips_map_mean_inside"], values["lpips_map_mean_outside"]
    assert torch.isnan(inside).tolist() == [True, False, False]
    assert torch.isnan(outside).tolist() == [False, False, True]
    assert inside[1].item() == pytest.approx(whole[1][masks[1] > 0].mean().item(), rel=1e-10)
    assert outside[1].item() == pytest.approx(whole[1][masks[1] == 0].mean().item(), rel=1e-10)


def test_lpips_without_its_trunk_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MetricWeightsError, match=r"holds 0 files named vgg16-\*.safetensors"):
        load_lpips(tmp_path)
    save_file({"features.0.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(MetricWeightsError, match=r"lacks .* weights of another network"):
        load_lpips(tmp_path)


def small_vgg() -> VGG:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VGG([8, "M", 16], 4, [0.5] * 3, [0.25] * 3).eval()


def test_the_stand_in_network_pools_the_last_feature_map_in_any_batch() -> None:
    vgg, images = small_vgg(), pictures(7, count=5, size=16)
    network = vgg_network(vgg, name="mini-vgg")
    with torch.no_grad():
        expected = vgg.features((images - 0.5) / 0.25).mean(dim=(2, 3)).double()
    for size in (1, 2, 5):
        torch.testing.assert_close(
            torch.cat([network(part) for part in images.split(size)]), expected, rtol=1e-5, atol=1e-6
        )
    assert (network.name, network.num_features) == ("mini-vgg", 16)


def test_a_feature_network_must_keep_its_word() -> None:
    network = FeatureNetwork(name="flat", num_features=5, extract=lambda images: images.flatten(1))
    with pytest.raises(MetricInputError, match=r"flat returned \(1, 12\), expected \(1, 5\)"):
        network(torch.rand(1, 3, 2, 2))
    with pytest.raises(MetricInputError, match="divide 8-bit images"):
        network(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))
    with pytest.raises(MetricInputError, match="needs a name"):
        FeatureNetwork(name="", num_features=5, extract=torch.flatten)
