import pytest
import torch
from torch import nn
from torch.nn import functional

from underpaint.segmenter.architecture import Architecture, ArchitectureError, build
from underpaint.segmenter.hypercolumn import Hypercolumn


def test_all_that_is_learned_beside_the_encoder_is_one_linear_layer() -> None:
    module = build(Architecture(name="hypercolumn", classes=("sky", "sea"), options={"decoder_channels": 0}))
    assert isinstance(module, Hypercolumn)
    learned = [name for name, _ in module.named_parameters() if not name.startswith("encoder.")]
    assert learned == ["segmentation_head.0.weight", "segmentation_head.0.bias"]
    assert module.get_parameter("segmentation_head.0.weight").shape == (2, sum(module.encoder.out_channels[2:]), 1, 1)
    assert not list(module.decoder.buffers())


def test_a_pixel_is_classified_by_its_features_of_every_stride() -> None:
    torch.manual_seed(0)
    module = Hypercolumn("resnet18", classes=3, decoder_channels=0).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        stages = module.encoder(image)[2:]
        columns = []
        for stage in stages:
            mean, std = stage.mean(), stage.var(unbiased=False).add(1e-5).sqrt()
            columns.append(functional.interpolate((stage - mean) / std, (16, 24), mode="bilinear"))
        weight, bias = (module.get_parameter(f"segmentation_head.0.{name}") for name in ("weight", "bias"))
        logits = torch.einsum("chw,nc->nhw", torch.cat(columns, dim=1)[0], weight[:, :, 0, 0]) + bias[:, None, None]
        expected = functional.interpolate(logits[None], (64, 96), mode="bilinear")
        assert [stage.shape[-1] for stage in stages] == [24, 12, 6, 3]
        torch.testing.assert_close(module(image), expected, rtol=1e-4, atol=1e-4)


def test_every_stride_alone_can_tell_classes_apart() -> None:
    """No stage is drowned by another's scale: the head's gradient is alike for all."""
    torch.manual_seed(0)
    module = Hypercolumn("tu-tf_efficientnet_lite0", classes=2, decoder_channels=0).eval()
    module(torch.randn(2, 3, 64, 64))[:, 0].square().mean().backward()
    gradient = module.get_parameter("segmentation_head.0.weight").grad
    assert gradient is not None
    stages = torch.split_with_sizes(gradient[0, :, 0, 0], list(module.encoder.out_channels[2:]))
    rates = [each.abs().mean() for each in stages]
    assert max(rates) < 20 * min(rates)


def test_dropout_leaves_out_features_in_training_only() -> None:
    torch.manual_seed(0)
    module = build(Architecture(name="Hypercolumn", classes=("sky",), options={"decoder_dropout": 0.5}))
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        module.eval()
        assert torch.equal(module(image), module(image))
        for each in module.modules():
            each.train(isinstance(each, nn.Dropout2d))
        assert not torch.equal(module(image), module(image))


def test_the_hidden_layer_is_one_layer_over_the_concatenation() -> None:
    torch.manual_seed(0)
    module = Hypercolumn("resnet18", classes=3, decoder_channels=32).eval()
    image = torch.randn(1, 3, 64, 96)
    projections = [module.get_submodule(f"decoder.0.projections.{stage}") for stage in range(4)]
    with torch.inference_mode():
        stages = module.encoder(image)[2:]
        columns = torch.cat([functional.interpolate(each, (16, 24), mode="bilinear") for each in stages], dim=1)
        weight = torch.cat([each.get_parameter("weight") for each in projections], dim=1)
        bias = torch.stack([each.get_parameter("bias") for each in projections]).sum(0)
        context = module.get_submodule("decoder.0.context")(stages[-1].mean(dim=(2, 3)))[:, :, None, None]
        hidden = module.get_submodule("decoder.0.norm")(functional.conv2d(columns, weight, bias) + context).relu()
        torch.testing.assert_close(module.decoder(stages), hidden, rtol=1e-3, atol=1e-4)
        assert module(image).shape == (1, 3, 64, 96)


def test_a_width_that_is_no_multiple_of_the_groups_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="multiple of 16"):
        build(Architecture(name="Hypercolumn", classes=("sky",), options={"decoder_channels": 20}))
