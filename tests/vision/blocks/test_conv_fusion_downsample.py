"""The small blocks: ConvNormAct, SEF, SPDConv."""

import pytest
import torch
import torch.nn.functional as F
from palyno.vision.blocks import SEF, ConvNormAct, SPDConv


def used(module: torch.nn.Module) -> torch.nn.Module:
    """With running statistics of some data, in eval mode."""
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(norm.running_mean)
            torch.nn.init.uniform_(norm.running_var, 0.5, 2)
            torch.nn.init.normal_(norm.weight)
            torch.nn.init.normal_(norm.bias)
    return module.eval()


@pytest.mark.parametrize("arguments", [{}, {"kernel": 3, "stride": 2}, {"kernel": 5, "groups": 4}])
def test_fusing_keeps_the_function_and_drops_the_normalisation(arguments):
    block = used(ConvNormAct(8, 12, **arguments)).double()
    x = torch.randn(2, 8, 13, 10, dtype=torch.float64)
    with torch.no_grad():
        before = block(x)
        block.fuse()
        block.fuse()
        torch.testing.assert_close(block(x), before, rtol=1e-12, atol=1e-12)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in block.modules())


def test_sef_has_the_published_size_and_reads_both_maps():
    sef = SEF(32, 128, 128).eval()
    assert sum(p.numel() for p in sef.parameters()) == 55_808
    edge, semantic = torch.rand(1, 32, 9, 9), torch.rand(1, 128, 9, 9)
    y = sef(edge, semantic)
    assert y.shape == (1, 128, 9, 9)
    assert (sef(torch.zeros_like(edge), semantic) != y).any()
    assert (sef(edge, torch.zeros_like(semantic)) != y).any()


def test_spdconv_hands_every_pixel_to_its_convolution():
    block = SPDConv(3, 8)
    seen = []
    block.conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.arange(3 * 6 * 8, dtype=torch.float32).reshape(1, 3, 6, 8)
    block(x)
    (depth,) = seen
    assert sorted(depth.flatten().tolist()) == x.flatten().tolist()
    # Space to depth as PyTorch has it, but for the order of channels: (offset, channel), offsets column by column.
    torch_order = F.pixel_unshuffle(x, 2).reshape(1, 3, 2, 2, 3, 4)
    assert torch.equal(depth.reshape(1, 2, 2, 3, 3, 4), torch_order.permute(0, 3, 2, 1, 4, 5))
    assert sum(p.numel() for p in SPDConv(64, 64).parameters()) == 147_584


@pytest.mark.parametrize(("size", "expected"), [((6, 6), (3, 3)), ((7, 6), (4, 3)), ((5, 9), (3, 5)), ((1, 1), (1, 1))])
def test_spdconv_rounds_odd_sizes_up(size, expected):
    assert SPDConv(2, 4).eval()(torch.rand(1, 2, *size)).shape[-2:] == expected


def test_spdconv_with_kernel_1_is_a_2x2_convolution_of_step_2():
    torch.manual_seed(0)
    block = SPDConv(3, 5, 1).eval()
    x = torch.rand(2, 3, 8, 10)
    weight = block.conv.conv.weight.reshape(5, 2, 2, 3).permute(0, 3, 2, 1)  # column, row, channel as it is stacked
    direct = torch.nn.functional.conv2d(x, weight, stride=2)
    torch.testing.assert_close(block(x), block.conv.act(block.conv.norm(direct)))
