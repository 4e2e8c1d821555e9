"""Bi-level routing attention as a layer, and BiFormer's block: against dense attention under a mask."""

import pytest
import torch
import torch.nn.functional as F
from palyno import UsageError
from palyno.vision.blocks import BiFormerBlock, FullAttention, RoutingAttention
from palyno.vision.blocks.routing import DropPath

# (height, width), regions a side, topk: regions tile the map, reach over it, are fewer than asked for, are of one token
CASES = [((6, 6), 3, 2), ((10, 7), 3, 2), ((9, 13), 4, 1), ((10, 11), 7, 5), ((3, 5), 7, 4), ((1, 1), 7, 3)]


def routing(topk, regions, padding="mask"):
    torch.manual_seed(0)
    return RoutingAttention(12, 3, topk, regions, padding=padding).double()


def tokens(size, batch=2):
    torch.manual_seed(1)
    return torch.randn(batch, *size, 12, dtype=torch.float64)


def dense(layer, x):
    """The layer by its definition: each token's scores with all others, those of regions that are not read left out."""
    batch, height, width, channels = x.shape
    tall, wide = -(-height // min(layer.regions, height)), -(-width // min(layer.regions, width))
    rows, columns = torch.arange(height) // tall, torch.arange(width) // wide
    region = (rows[:, None] * (columns.max() + 1) + columns).flatten()
    count = int(region.max()) + 1
    q, k, v = layer.qkv(x).flatten(1, 2).chunk(3, -1)
    members = F.one_hot(region, count).to(x.dtype)
    means = [members.T @ part / members.sum(0)[:, None] for part in (q, k)]
    reads = torch.zeros(batch, count, count, dtype=torch.bool)
    best = (means[0] @ means[1].transpose(1, 2)).topk(min(layer.topk, count)).indices
    mask = reads.scatter(2, best, True)[:, region][:, :, region]
    q, k, split_v = (part.unflatten(2, (layer.heads, -1)).transpose(1, 2) for part in (q, k, v))
    scores = (q @ k.transpose(2, 3) / channels**0.5).masked_fill(~mask[:, None], -torch.inf)
    y = (scores.softmax(-1) @ split_v).transpose(1, 2).reshape(x.shape)
    v = v.reshape(x.shape).permute(0, 3, 1, 2)
    return layer.proj(y + layer.lepe(v).permute(0, 2, 3, 1))


@pytest.mark.parametrize(("size", "regions", "topk"), CASES)
def test_what_is_gathered_is_dense_attention_under_the_mask(size, regions, topk):
    layer, x = routing(topk, regions), tokens(size).requires_grad_()
    y, expected = layer(x), dense(layer, x)
    torch.testing.assert_close(y, expected)
    inputs, up = (x, *layer.parameters()), torch.randn_like(y)
    for got, want in zip(torch.autograd.grad(y, inputs, up), torch.autograd.grad(expected, inputs, up), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("size", [(8, 8), (10, 7)])
def test_all_regions_are_full_attention(size):
    layer, x = routing(topk=16, regions=4), tokens(size)
    q, k, v = (p.unflatten(2, (3, -1)).transpose(1, 2) for p in layer.qkv(x).flatten(1, 2).chunk(3, -1))
    full = F.scaled_dot_product_attention(q, k, v, scale=12**-0.5).transpose(1, 2).reshape(x.shape)
    lepe = layer.lepe(v.transpose(1, 2).reshape(x.shape).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    torch.testing.assert_close(layer(x), layer.proj(full + lepe))


@pytest.mark.parametrize(("size", "regions", "topk"), [*CASES, ((10, 20), 7, 8)])
def test_official_padding_is_a_larger_map_cut_back(size, regions, topk):
    layer, x = routing(topk, regions, "official"), tokens(size)
    height, width = size
    padded = F.pad(x, (0, 0, 0, -width % regions, 0, -height % regions))
    torch.testing.assert_close(layer(x), dense(layer, padded)[:, :height, :width])


def test_padding_is_a_matter_of_maps_that_regions_do_not_tile():
    masked, official = routing(2, 3), routing(2, 3, "official")
    assert torch.equal(masked(tokens((6, 9))), official(tokens((6, 9))))
    assert (masked(tokens((7, 9))) - official(tokens((7, 9)))).abs().max() > 1e-3


@pytest.mark.parametrize(("padding", "matters"), [("mask", False), ("official", True)])
def test_what_is_beyond_the_map_has_no_weight(padding, matters):
    """Equal values mixed with weights that sum to one are the value itself, unless there is something else to read."""
    layer, x = routing(2, 3, padding), tokens((7, 8))
    with torch.no_grad():
        layer.lepe.weight.zero_()
        layer.qkv.weight[24:].zero_()
        layer.qkv.weight[24:, 0] = 1
        x[..., 0] = 1
        value = layer.proj(layer.qkv(x)[..., 24:] + layer.lepe.bias)
        error = (layer(x) - value).abs().max()
    assert error > 1e-3 if matters else error < 1e-12


def test_full_attention_is_softmax_over_all_tokens_of_one_heads_scale():
    torch.manual_seed(0)
    layer, x = FullAttention(12, 3).double(), tokens((4, 5))
    q, k, v = (p.unflatten(2, (3, 4)).transpose(1, 2) for p in layer.qkv(x).flatten(1, 2).chunk(3, -1))
    y = ((q @ k.transpose(2, 3) / 2).softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(layer(x), layer.proj(y + layer.lepe(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)))
    assert layer.qkv.bias is None


@pytest.mark.parametrize("topk", [2, None])
@pytest.mark.parametrize("size", [(1, 1), (7, 10)])
def test_gradients_are_finite_and_reach_every_parameter(topk, size):
    torch.manual_seed(0)
    block = BiFormerBlock(16, heads=2, topk=topk, regions=3, layer_scale=0.1, drop_path=0.2)
    block(torch.randn(4, 16, *size)).square().sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # Of one token there is nothing to choose: its weight is one, whatever queries and keys are.
        assert size == (1, 1) or parameter.grad.any(), name


def test_without_layer_scale_there_is_nothing_to_learn_of_it_and_at_zero_the_block_is_its_position():
    torch.manual_seed(0)
    x = torch.randn(2, 16, 5, 6)
    assert not any("gamma" in name for name, _ in BiFormerBlock(16, heads=2, topk=1).named_parameters())
    block = BiFormerBlock(16, heads=2, topk=1, layer_scale=0.0)
    torch.testing.assert_close(block(x), x + block.position(x))


def test_a_dropped_path_is_dropped_for_whole_images_and_made_up_for():
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 1, 2)
    y = drop(x)
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(y[:, :, 0], y[:, :, 1])
    assert y.mean() == pytest.approx(1, abs=0.03)
    assert torch.equal(drop.eval()(x), x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 5}, "heads: expected a divisor of the 12 channels, got 5"),
        ({"topk": 0}, "topk, regions: expected whole numbers from 1, got 0 and 7"),
        ({"regions": 0}, "topk, regions: expected whole numbers from 1, got 4 and 0"),
        ({"padding": "zeros"}, "padding: expected one of mask, official; got 'zeros'"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        RoutingAttention(12, **{"heads": 3, "topk": 4, **arguments})
    with pytest.raises(UsageError, match="heads: expected a divisor of the 12 channels, got 8"):
        FullAttention(12)
