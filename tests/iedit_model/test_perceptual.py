"""The perceptual features of Eq. 10: which layer, masked how, compared how."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from iedit_model.errors import ConfigError
from iedit_model.models.perceptual import PerceptualFeatures, num_modules_up_to
from iedit_model.models.vgg import VGG
from iedit_model.training.losses import perceptual_loss
from tests.builders.tiny_models import seeded
from tests.references import iedit_equations as reference

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]


def tiny_vgg() -> VGG:
    return seeded(lambda: VGG([4, 4, "M", 6, 6], 3, MEAN, STD), 3)


def random_images(seed: int, *, batch: int = 2, size: int = 16) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def square(top: int, left: int, side: int, *, batch: int = 2, size: int = 16) -> Tensor:
    mask = torch.zeros(batch, 1, size, size)
    mask[:, :, top : top + side, left : left + side] = 1
    return mask


def test_the_layers_of_vgg16_are_counted_as_in_the_literature():
    features = make_layers(list(cfgs["D"]))
    # torchvision's indices of relu1_2, relu2_2, relu3_3, relu4_3 and relu5_3 are 3, 8, 15, 22 and 29.
    for name, index in {"relu1_2": 3, "relu2_2": 8, "relu3_3": 15, "relu4_3": 22, "relu5_3": 29, "conv3_3": 14}.items():
        assert num_modules_up_to(features, name) == index + 1
    assert isinstance(features[15], nn.ReLU)


@pytest.mark.parametrize("name", ["relu3_1", "relu1_3", "relu0_1"])
def test_a_layer_that_is_not_there_is_refused(name):
    with pytest.raises(ConfigError, match=name):
        PerceptualFeatures(tiny_vgg(), layer=name)


@pytest.mark.parametrize("name", ["relu", "block3", "relu3_3; drop", "3_3"])
def test_a_name_that_is_no_layer_is_refused(name):
    with pytest.raises(ConfigError, match="not understood"):
        PerceptualFeatures(tiny_vgg(), layer=name)


@pytest.mark.parametrize(("layer", "num_modules"), [("relu1_1", 2), ("conv2_1", 6), ("relu2_2", 9)])
def test_features_are_those_of_the_normalised_product_with_the_mask(layer, num_modules):
    vgg, images, mask = tiny_vgg(), random_images(0), square(2, 3, 9)
    ours = PerceptualFeatures(vgg, layer=layer)(images, mask)
    pixels = (images * mask + 1) / 2
    normalised = (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    expected = normalised
    for module in list(vgg.features)[:num_modules]:
        expected = module(expected)
    assert torch.allclose(ours, expected, atol=1e-6)


def test_the_black_fill_is_the_product_in_zero_to_one():
    vgg, images, mask = tiny_vgg(), random_images(1), square(2, 3, 9)
    ours = PerceptualFeatures(vgg, layer="relu1_1", fill="black")(images, mask)
    assert torch.allclose(ours, vgg.feature_map((images + 1) / 2 * mask, 2), atol=1e-6)


def test_what_lies_outside_the_masks_does_not_matter():
    images, other, mask = random_images(2), random_images(3), square(4, 4, 7)
    for align in ("none", "bbox_crop", "gram"):
        features = PerceptualFeatures(tiny_vgg(), layer="relu2_1", align=align)
        changed = images * mask + other * (1 - mask)
        assert torch.equal(features(images, mask), features(changed, mask))
        assert not torch.equal(features(images, mask), features(other, mask))


def test_the_gram_matrix_is_the_loops_one():
    images, mask = random_images(4), torch.ones(2, 1, 16, 16)
    plain = PerceptualFeatures(tiny_vgg(), layer="relu2_1")(images, mask)
    ours = PerceptualFeatures(tiny_vgg(), layer="relu2_1", align="gram")(images, mask)
    for i in range(2):
        expected = torch.from_numpy(reference.gram(plain[i].double().numpy())).float()
        assert torch.allclose(ours[i], expected, rtol=1e-5, atol=1e-7)


def test_an_object_elsewhere_matches_once_its_box_is_cut_out():
    """The same picture moved by (5, 6) pixels: compared place by place it is far away, box by box it is equal."""
    patch = random_images(5, size=6)
    here, there = torch.zeros(2, 3, 16, 16), torch.zeros(2, 3, 16, 16)
    here[:, :, 2:8, 3:9], there[:, :, 7:13, 9:15] = patch, patch
    masks = square(2, 3, 6), square(7, 9, 6)
    distances = {}
    for align in ("none", "bbox_crop"):
        features = PerceptualFeatures(tiny_vgg(), layer="relu2_1", align=align, crop_margin=0.0)
        distances[align] = perceptual_loss(features(here, masks[0]), features.target(there, masks[1])).max()
    assert distances["bbox_crop"] < 1e-10
    assert distances["none"] > 1e-3


def test_a_resize_brings_features_of_any_image_to_one_size():
    features = PerceptualFeatures(tiny_vgg(), layer="relu1_1", size_px=8)
    assert features(random_images(6, size=24), torch.ones(2, 1, 24, 24)).shape == (2, 4, 8, 8)
    crops = PerceptualFeatures(tiny_vgg(), layer="relu1_1", size_px=8, align="bbox_crop")
    assert crops(random_images(6, size=24), square(0, 0, 3, size=24)).shape == (2, 4, 8, 8)


@pytest.mark.parametrize("align", ["none", "bbox_crop", "gram"])
def test_gradients_reach_the_pixels_inside_the_mask_alone_and_no_weight(align):
    features = PerceptualFeatures(tiny_vgg(), layer="relu2_1", align=align).double()
    images = random_images(7, batch=1).double().requires_grad_()
    mask = square(4, 5, 6, batch=1).double()
    target = features.target(random_images(8, batch=1).double(), mask)
    assert not target.requires_grad
    perceptual_loss(features(images, mask), target).sum().backward()
    assert images.grad is not None
    assert (images.grad[..., 4:10, 5:11].abs() > 0).any()
    assert (images.grad * (1 - mask)).abs().max() == 0
    assert all(parameter.grad is None for parameter in features.parameters())
    assert torch.autograd.gradcheck(
        lambda x: perceptual_loss(features(x, mask), target), (images.detach().requires_grad_(),), fast_mode=True
    )


def test_it_stays_in_evaluation_mode_and_keeps_its_precision_under_autocast():
    features = PerceptualFeatures(tiny_vgg(), layer="relu2_1")
    assert not any(module.training for module in torch.nn.ModuleList([features]).train()[0].modules())
    images, mask = random_images(9), square(4, 5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        inside = features(images, mask)
    assert torch.equal(inside, features(images, mask))
