import json

import numpy as np
import pytest
import torch
from palyno.data.grains import CutGrain
from palyno.errors import InputError, RejectedModelError, UsageError
from palyno.retrieval.encoders.image.augment import Augmentation, augment
from palyno.retrieval.encoders.image.evaluate import embed, hits_at
from palyno.retrieval.encoders.image.grains import CANVAS, CLEAR, FILL, GrainSet, place
from palyno.retrieval.encoders.image.losses import LOSSES, CosineMargin, ProxyAnchor, SupervisedContrast, build_loss
from palyno.retrieval.encoders.image.network import GrainNet
from palyno.retrieval.encoders.image.pixels import grey_density, standardise, turn
from palyno.retrieval.encoders.image.regions import RegionHead, pool_regions, squares
from palyno.retrieval.encoders.image.train import EncoderSettings, hold_out, train_encoder
from palyno.retrieval.encoders.image.weights import fill, read_encoder, write_encoder

TINY = {"dim": 12, "widths": (4, 8, 8, 8), "side": 32}


def drawn(petals, rng, size=60):
    """A grain with so many lobes, at any angle, of any stain."""
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    bearing = np.arctan2(y, x) + rng.uniform(0, 6.28)
    mask = (np.hypot(x, y) < 0.65 + 0.25 * np.cos(petals * bearing)).astype(np.float32)
    stain = rng.uniform(0.2, 0.8, 3).astype(np.float32)
    return CutGrain(1 - mask[..., None] * (1 - stain), mask)


def drawings(count=8, seed=0):
    rng = np.random.default_rng(seed)
    return GrainSet.collect((drawn(p, rng), f"petals{p}", f"{p}/{i}") for p in (2, 3, 5) for i in range(count))


def vectors(seed, n=10, dim=6, taxa=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dim))
    return torch.from_numpy(x / np.linalg.norm(x, axis=1, keepdims=True)), torch.from_numpy(rng.integers(0, taxa, n))


def test_a_placed_grain_fills_its_share_and_leaves_the_rest_clear():
    mask = np.zeros((50, 90), np.float32)
    mask[10:40, 15:75] = 1
    canvas = place(CutGrain(1 - 0.5 * mask[..., None].repeat(3, 2), mask))
    inside = canvas[..., 0] < 0.75
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    assert columns.size == pytest.approx(FILL * CANVAS, abs=2)
    assert rows.size == pytest.approx(FILL * CANVAS / 2, abs=2)
    assert rows.mean() == pytest.approx((CANVAS - 1) / 2, abs=1)
    assert columns.mean() == pytest.approx((CANVAS - 1) / 2, abs=1)
    assert canvas[0, 0] == pytest.approx([1, 1, 1])


def test_a_set_of_grains_comes_back_from_its_file_nearly_as_it_was(tmp_path):
    grains = drawings(2)
    back = GrainSet.load(grains.save(tmp_path / "grains.npz"))
    assert (back.taxa, back.names) == (grains.taxa, grains.names)
    assert np.abs(back.pixels.astype(int) - grains.pixels).mean() < 3


def test_other_files_are_no_sets_of_grains(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK no")
    with pytest.raises(InputError, match=r"x\.npz"):
        GrainSet.load(tmp_path / "x.npz")
    with pytest.raises(UsageError, match="taxa"):
        GrainSet(np.zeros((2, 8, 8, 3), np.uint8), ("one",), ("a", "b"))


def test_what_the_network_sees_does_not_change_with_the_strength_of_the_stain():
    light = torch.rand(3, 1, 20, 20) * 0.8 + 0.1
    seen = standardise(grey_density(light.expand(-1, 3, -1, -1)))
    stained = standardise(grey_density((light**1.7).expand(-1, 3, -1, -1)))
    assert torch.allclose(seen, stained, atol=5e-3)


def test_colours_of_one_luma_look_the_same():
    grey = torch.full((1, 3, 8, 8), 0.5)
    pink = grey + torch.tensor([0.114, 0.0, -0.299]).view(1, 3, 1, 1)
    assert torch.allclose(grey_density(grey), grey_density(pink), atol=1e-6)


def test_quarter_turns_are_exact_and_mirrors_come_first():
    x = torch.rand(2, 1, 16, 16)
    for quarter in range(4):
        turned = turn(x, 16, quarter * np.pi / 2)
        assert torch.allclose(turned, torch.rot90(x, quarter, (2, 3)), atol=1e-5)
    assert torch.allclose(turn(x, 16, 0, True), x.flip(3), atol=1e-5)


def test_vectors_have_unit_length_and_do_not_depend_on_the_batch():
    network = GrainNet(12, (4, 8)).eval()
    pixels = torch.from_numpy(drawings(3).pixels)
    together = embed(network, pixels, 32, turns=2)
    assert together.norm(dim=1).numpy() == pytest.approx(np.ones(9), abs=1e-5)
    assert torch.allclose(together, embed(network, pixels, 32, turns=2, batch=2), atol=1e-5)
    order = torch.tensor([4, 0, 8])
    assert torch.allclose(embed(network, pixels[order], 32, turns=2), together[order], atol=1e-5)


def test_a_quarter_turn_and_a_mirror_of_the_grain_change_nothing():
    network = GrainNet(12, (4, 8)).eval()
    pixels = torch.from_numpy(drawings(2).pixels)
    upright = embed(network, pixels, 32, turns=4)
    assert torch.allclose(embed(network, torch.rot90(pixels, 1, (1, 2)), 32, turns=4), upright, atol=1e-4)
    assert torch.allclose(embed(network, pixels.flip(2), 32, turns=4), upright, atol=1e-4)
    single = embed(network, pixels, 32, turns=1, mirror=False)
    assert not torch.allclose(
        single, embed(network, torch.rot90(pixels, 1, (1, 2)), 32, turns=1, mirror=False), atol=1e-3
    )


def test_new_pictures_are_repeatable_and_differ_from_each_other():
    pixels = torch.from_numpy(drawings(2).pixels)
    first, again, other = (
        augment(pixels, 32, Augmentation(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == (6, 1, 32, 32)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.1)
    assert torch.isfinite(first).all()


def test_without_changes_only_the_angle_and_the_mirror_differ():
    off = Augmentation(**dict.fromkeys(vars(Augmentation()), 0.0))
    # A disk is the same at every angle.
    y, x = np.mgrid[-1:1:160j, -1:1:160j]
    disk = np.where(np.hypot(x, y) < 0.8, 0.4, 1.0)
    pixels = torch.from_numpy(np.uint8(np.rint(CLEAR * disk)))[None, :, :, None].expand(4, -1, -1, 3)
    seen = augment(pixels, 64, off, torch.Generator().manual_seed(0))
    plain = standardise(turn(grey_density(pixels.permute(0, 3, 1, 2).float() / CLEAR), 64, 0.0))
    assert (seen - plain).abs().mean() < 0.05
    with pytest.raises(UsageError, match="noise"):
        Augmentation(noise=2)


def test_supervised_contrast_is_its_double_loop():
    z, labels = vectors(0)
    total, anchors = 0.0, 0
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if positives:
            below = sum(np.exp(float(z[i] @ z[a]) / 0.1) for a in others)
            total -= np.mean([np.log(np.exp(float(z[i] @ z[p]) / 0.1) / below) for p in positives])
            anchors += 1
    assert float(SupervisedContrast()(z, labels)) == pytest.approx(total / anchors, rel=1e-9)


def test_proxy_anchor_is_its_double_loop():
    z, labels = vectors(1)
    loss = ProxyAnchor(6, 4).double()
    proxies = torch.nn.functional.normalize(loss.proxies, dim=1).detach()
    pull, push, here = 0.0, 0.0, 0
    for c in range(4):
        cosine = [float(proxies[c] @ v) for v in z]
        near = [np.exp(-32 * (s - 0.1)) for s, t in zip(cosine, labels, strict=True) if t == c]
        far = [np.exp(32 * (s + 0.1)) for s, t in zip(cosine, labels, strict=True) if t != c]
        pull, here = pull + (np.log1p(sum(near)) if near else 0), here + bool(near)
        push += np.log1p(sum(far))
    assert loss(z, labels).item() == pytest.approx(pull / here + push / 4, rel=1e-9)


def test_cosine_margin_without_margin_is_cross_entropy_and_grows_with_it():
    z, labels = vectors(2)
    plain, strict = (CosineMargin(6, 3, margin=m, smoothing=0).double() for m in (0.0, 0.3))
    strict.proxies.data = plain.proxies.data
    scores = 20 * z @ torch.nn.functional.normalize(plain.proxies, dim=1).T
    assert float(plain(z, labels)) == pytest.approx(float(torch.nn.functional.cross_entropy(scores, labels)), rel=1e-9)
    assert float(strict(z, labels)) > float(plain(z, labels)) + 0.1


@pytest.mark.parametrize("name", LOSSES)
def test_grains_of_a_taxon_together_cost_less(name):
    torch.manual_seed(0)
    loss = build_loss(name, 6, 3)
    labels = torch.arange(3).repeat(4)
    apart = torch.eye(6)[labels]
    if hasattr(loss, "proxies"):
        loss.proxies.data = torch.eye(6)[:3]
    mixed = apart[torch.randperm(12)]
    assert float(loss(apart, labels)) < float(loss(mixed, labels))


def test_unknown_loss_is_refused():
    with pytest.raises(UsageError, match="proxy-anchor"):
        build_loss("triplet", 4, 4)


def test_recall_counts_queries_whose_taxon_is_among_the_nearest():
    gallery = np.eye(4)
    queries = np.array([[0.9, 0.4, 0, 0], [0.1, 0.2, 0.9, 0.3]])
    taxa = ["a", "b", "c", "d"]
    assert hits_at(queries, gallery, ["b", "c"], taxa).tolist() == [False, True]
    assert hits_at(queries, gallery, ["b", "c"], taxa, 2).tolist() == [True, True]


def test_regions_of_a_linear_map_hold_its_values_at_the_cells():
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    maps = torch.stack([x, y])[None] * 8 + 4  # Its value at a pixel's middle is the pixel's place in a window of 128.
    pooled = pool_regions([maps], torch.tensor([[21.0, 35.0, 91.0, 105.0]]), torch.tensor([0]), (128, 128))
    assert pooled[0, 0, 0].tolist() == pytest.approx([21 + 5 + 10 * i for i in range(7)], abs=1e-3)
    assert pooled[0, 1, :, 0].tolist() == pytest.approx([35 + 5 + 10 * i for i in range(7)], abs=1e-3)


def test_several_regions_of_a_window_are_as_each_alone():
    maps = [torch.rand(3, 4, 12, 12), torch.rand(3, 5, 6, 6)]
    boxes, of = torch.rand(4, 4) * 40 + torch.tensor([0.0, 0.0, 45.0, 45.0]), torch.tensor([0, 2, 2, 2])
    together = pool_regions(maps, boxes, of, (96, 96))
    for i in range(4):
        alone = pool_regions([m[of[i] :][:1] for m in maps], boxes[i : i + 1], torch.tensor([0]), (96, 96))
        assert torch.allclose(together[i], alone[0], atol=1e-5)
    assert pool_regions(maps, boxes[:0], of[:0], (96, 96)).shape == (0, 9, 7, 7)
    assert RegionHead(9, 8).eval()(together).norm(dim=1).detach().numpy() == pytest.approx(np.ones(4), abs=1e-5)


def test_squares_hold_their_boxes():
    assert squares(torch.tensor([[10.0, 20.0, 50.0, 30.0]]))[0].tolist() == pytest.approx([7, 2, 53, 48])


def test_held_out_grains_are_so_many_of_each_taxon_and_never_all():
    grains = drawings(4).select([True] * 9 + [False] * 3)
    held = hold_out(grains, 2, 0)
    assert [sum(h for h, t in zip(held, grains.taxa, strict=True) if t == f"petals{p}") for p in (2, 3, 5)] == [2, 2, 0]
    assert (held == hold_out(grains, 2, 0)).all()
    assert (held != hold_out(grains, 2, 1)).any()


def settings(out, **changes):
    plain = {"batch": 12, "per_taxon": 4, "steps": 6, "check_every": 3, "device": "cpu", "average": 0.9, **TINY}
    return EncoderSettings(out=out, **{**plain, **changes})


def test_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path):
    grains = drawings()
    whole = train_encoder(grains, settings(tmp_path / "whole"))
    # The checkpoint of step 3, as a run that was killed leaves it.
    half = settings(tmp_path / "half")
    from palyno.retrieval.encoders.image import train

    run = train._Run(grains, half)
    half.out.mkdir()
    for _ in range(3):
        run.learn()
    run.save()
    resumed = train_encoder(grains, half, resume=True)
    a, b = (read_encoder(p, "palyno-grain-encoder-1")[0] for p in (whole, resumed))
    assert all(torch.equal(a[k], b[k]) for k in a)
    with pytest.raises(UsageError, match="same settings"):
        train_encoder(grains, settings(half.out, lr=0.01), resume=True)


def test_training_learns_outlines_whatever_the_stain(tmp_path):
    changes = {"steps": 40, "held_out": 4, "lr": 5e-3, "loss": "supcon", "check_every": 40}
    path = train_encoder(drawings(12), settings(tmp_path, **changes))
    _, about = read_encoder(path, "palyno-grain-encoder-1")
    # Chance is 1 in 3.
    assert about.training["held_out_recall_at_1"] >= 0.75
    assert about.encoder_id == f"grain-encoder@{about.sha256[:12]}"


def test_trait_task_takes_known_taxa(tmp_path):
    grains = drawings()
    names = {"petals2": "zea_mays", "petals3": "myrcia_guianensis", "petals5": "sida_cerradoensis"}
    grains = GrainSet(grains.pixels, tuple(names[t] for t in grains.taxa), grains.names)
    path = train_encoder(grains, settings(tmp_path, trait_weight=0.5, steps=2))
    assert json.loads(json.dumps(read_encoder(path, "palyno-grain-encoder-1")[1].training))["taxa"] == sorted(
        names.values()
    )


@pytest.mark.parametrize("wrong", [{"loss": "l2"}, {"per_taxon": 1}, {"seconds": 0}, {"average": 1}, {"side": 8}])
def test_a_setting_that_cannot_be_is_refused(tmp_path, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        settings(tmp_path, **wrong)


def test_one_taxon_is_nothing_to_learn_from(tmp_path):
    grains = drawings(3)
    with pytest.raises(InputError, match="two taxa"):
        train_encoder(grains.select([t == "petals2" for t in grains.taxa]), settings(tmp_path))


def test_weights_come_back_and_others_are_refused(tmp_path):
    network = GrainNet(12, (4, 8)).eval()
    said = {"format": "palyno-grain-encoder-1", "name": "x", "config": {"dim": 12}, "training": {}}
    path = write_encoder(tmp_path / "x.safetensors", network, **said)
    tensors, about = read_encoder(path, "palyno-grain-encoder-1")
    again = fill(GrainNet(12, (4, 8)), tensors, path)
    assert about.config == {"dim": 12}
    x = torch.rand(2, 1, 32, 32)
    assert torch.allclose(network(x), again(x), atol=5e-3)
    assert write_encoder(tmp_path / "y.safetensors", network, **said).read_bytes() == path.read_bytes()
    with pytest.raises(RejectedModelError, match=r"regions of slides, such as grain-regions.*got an encoder of crops"):
        read_encoder(path, "palyno-region-encoder-1")
    with pytest.raises(RejectedModelError, match="tensors"):
        fill(GrainNet(12, (4, 12)), tensors, path)
    for content in (b"", b"\x80\x04", path.read_bytes()[:500]):
        (tmp_path / "z").write_bytes(content)
        with pytest.raises(RejectedModelError, match="z: expected"):
            read_encoder(tmp_path / "z", "palyno-grain-encoder-1")
