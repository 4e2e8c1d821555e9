"""Weights in parts: the same network as in one file, whichever is named, and refused unless all are right."""

import hashlib
import json
import shutil
import subprocess

import palyno
import pytest
import torch
from click.testing import CliRunner
from palyno import NothingToDoError, RejectedModelError, UnknownModelError, UsageError
from palyno.app.cli import cli
from palyno.vision.parts import is_part, part_paths
from palyno.vision.temperature import with_temperature
from palyno.vision.weights import (
    LOCK_FORMAT,
    find_model,
    load_weights,
    read_metadata,
    save_weights,
    split_weights,
)
from safetensors.torch import load, save

LARGEST = 2_500_000


@pytest.fixture(scope="module")
def whole(shipped_model):
    return find_model(shipped_model)[0]


@pytest.fixture(scope="module")
def parts(whole, tmp_path_factory):
    """The shipped detector in three parts."""
    return split_weights(whole, tmp_path_factory.mktemp("parts"), largest=LARGEST)[0].paths


@pytest.fixture
def mine(parts, tmp_path):
    """The parts again, to be damaged."""
    return [shutil.copy(path, tmp_path / path.name) for path in parts]


def opened(path):
    """Tensors and the metadata of the header."""
    data = path.read_bytes()
    return load(data), json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def locked(folder, paths, **changes):
    """A list with the parts as one model."""
    data = b"".join(path.read_bytes() for path in paths)
    entry = {
        "file": paths[0].name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "licence": "AGPL-3.0-or-later",
        "source": "made",
    }
    lock = folder / "models.lock"
    lock.write_text(json.dumps({"format": LOCK_FORMAT, "models": {"parted": entry | changes}}))
    return lock


def test_each_part_is_safetensors_with_its_share_and_the_header_of_the_whole(whole, parts):
    tensors, about = opened(whole)
    names = [f"{whole.stem}-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert [path.name for path in parts] == names
    held = [opened(path) for path in parts]
    assert [header for _, header in held] == [about] * 3
    assert sum(len(share) for share, _ in held) == len(tensors)
    joined = {key: tensor for share, _ in held for key, tensor in share.items()}
    assert joined.keys() == tensors.keys() and all(torch.equal(joined[key], tensors[key]) for key in tensors)
    assert all(0.3 * LARGEST < path.stat().st_size <= LARGEST for path in parts)


@pytest.mark.parametrize("largest", [600_000, 1_000_001, 4_444_444])
def test_no_part_is_larger_than_asked_and_none_is_smaller_than_need_be(whole, tmp_path, largest):
    written = split_weights(whole, tmp_path, largest=largest)[0]
    held = [opened(path)[0] for path in written.paths]
    assert max(path.stat().st_size for path in written.paths) <= largest
    for path, following in zip(written.paths, held[1:], strict=False):
        key = min(following)
        # Names of types are reckoned at their longest, numbers of bytes and spaces, too.
        slack = 100 * len(opened(path)[0])
        assert path.stat().st_size + following[key].nbytes + slack > largest


def test_in_parts_and_whole_are_bitwise_the_same_network(whole, parts):
    one, about = load_weights(whole)
    x = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    for path in parts:
        other, said = load_weights(path)
        assert vars(said) | {"sha256": ""} == vars(about) | {"sha256": ""}
        states = one.state_dict(), other.state_dict()
        assert list(states[0]) == list(states[1])
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
        with torch.inference_mode():
            assert torch.equal(one(x)[0], other(x)[0])


def test_the_hash_is_that_of_the_parts_one_after_the_other_whichever_is_named(parts):
    expected = hashlib.sha256(b"".join(path.read_bytes() for path in parts)).hexdigest()
    assert {read_metadata(path).sha256 for path in reversed(parts)} == {expected}
    told = subprocess.run(
        "cat *-of-*.safetensors | sha256sum",
        shell=True,
        cwd=parts[0].parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split()[0] == expected
    detector = palyno.load(parts[1], device="cpu")
    assert detector.detect(torch.zeros(64, 64, 3, dtype=torch.uint8).numpy()).provenance.sha256 == expected


def test_the_same_weights_are_the_same_bytes_from_a_file_and_from_other_parts(whole, parts, tmp_path):
    others = split_weights(whole, tmp_path / "others", largest=5_000_000)[0].paths
    assert len(others) == 2
    tensors, about = opened(whole)
    # As other programs add entries, which safetensors writes in any order.
    other = tmp_path / "other" / whole.name
    other.parent.mkdir()
    other.write_bytes(save(tensors, about | {"format": "pt", "by": "another program"}))
    for source in (whole, others[1], other):
        out = tmp_path / f"{source.parent.name}-again"
        again = split_weights(source, out, largest=LARGEST)[0].paths
        assert [path.read_bytes() for path in again] == [path.read_bytes() for path in parts]


def test_saved_again_parts_are_the_one_file_that_they_were(whole, parts, tmp_path):
    model, about = load_weights(parts[0])
    said = {key: value for key, value in vars(about).items() if key != "sha256"}
    assert save_weights(tmp_path / "one.safetensors", model, **said).read_bytes() == whole.read_bytes()
    with_temperature(parts[2], tmp_path / "two.safetensors", about.naming_temperature)
    assert (tmp_path / "two.safetensors").read_bytes() == whole.read_bytes()
    with pytest.raises(UsageError, match="expected the name of a whole file"):
        with_temperature(parts[2], parts[2], 1.0)
    assert len(opened(parts[2])[0]) < len(opened(whole)[0]), "the part is as it was"


def test_by_name_all_parts_are_compared_with_the_list(mine):
    lock = locked(mine[0].parent, mine)
    path, shipped = find_model("parted", lock)
    assert path == mine[0]
    assert load_weights(path, shipped=shipped)[1].sha256 == shipped.sha256
    data = bytearray(mine[2].read_bytes())
    data[-1] ^= 1
    mine[2].write_bytes(data)
    with pytest.raises(RejectedModelError, match=f"with sha256 {shipped.sha256}, got {shipped.bytes} bytes with"):
        load_weights(path, shipped=shipped)


def missing(mine):
    mine[1].unlink()


def all_but_one_missing(mine):
    mine[0].unlink()
    mine[1].unlink()


def a_folder(mine):
    missing(mine)
    mine[1].mkdir()


def cut_short(mine):
    mine[1].write_bytes(mine[1].read_bytes()[:-1000])


def header_cut_short(mine):
    mine[1].write_bytes(mine[1].read_bytes()[:1000])


def a_pickle(mine):
    mine[1].write_bytes(b"\x80\x04N.")


def a_pointer(mine):
    mine[1].write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def of_another_model(mine):
    tensors, about = opened(mine[1])
    about["palyno"] = json.dumps({**json.loads(about["palyno"]), "name": "other"}, sort_keys=True)
    mine[1].write_bytes(save(tensors, about))


def trained_otherwise(mine):
    tensors, about = opened(mine[1])
    about["palyno"] = json.dumps({**json.loads(about["palyno"]), "training": {"seed": 99}}, sort_keys=True)
    mine[1].write_bytes(save(tensors, about))


def without_a_header(mine):
    mine[1].write_bytes(save(opened(mine[1])[0]))


def the_same_part_twice(mine):
    mine[1].write_bytes(mine[0].read_bytes())


def one_tensor_twice(mine):
    tensors, about = opened(mine[1])
    key, tensor = next(iter(opened(mine[0])[0].items()))
    mine[1].write_bytes(save(tensors | {key: tensor}, about))


def one_tensor_less(mine):
    tensors, about = opened(mine[1])
    tensors.pop(next(iter(tensors)))
    mine[1].write_bytes(save(tensors, about))


def one_tensor_more(mine):
    tensors, about = opened(mine[1])
    mine[1].write_bytes(save(tensors | {"extra": torch.ones(1)}, about))


def of_another_shape(mine):
    tensors, about = opened(mine[1])
    key = next(k for k, t in tensors.items() if t.ndim == 4 and len(t) > 1)
    mine[1].write_bytes(save(tensors | {key: tensors[key][:1].contiguous()}, about))


def not_finite(mine):
    tensors, about = opened(mine[1])
    next(t for t in tensors.values() if t.is_floating_point()).view(-1)[0] = float("inf")
    mine[1].write_bytes(save(tensors, about))


def far_larger(mine):
    """The headers of all parts ask for a network that their tensors are not."""
    for path in mine:
        tensors, about = opened(path)
        said = json.loads(about["palyno"])
        said["config"]["scales"][said["config"]["scale"]] = [1.0, 40.0, 4096]
        path.write_bytes(save(tensors, about | {"palyno": json.dumps(said, sort_keys=True)}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (missing, r"expected all 3 parts beside each other, \S+-00002-of-00003\.safetensors is missing; copy all"),
        (all_but_one_missing, r"-00001-of-00003\.safetensors, one of 2, is missing"),
        (a_folder, r"-00002-of-00003\.safetensors: expected a weights file, got Is a directory"),
        (cut_short, r"-00002-of-00003\.safetensors: expected safetensors, got .*it is damaged, copy it again"),
        (header_cut_short, r"-00002-of-00003\.safetensors: expected safetensors, got 1000 bytes .*copy it again"),
        (a_pickle, r"-00002-of-00003\.safetensors: expected safetensors, got a pickle; loading a pickle runs"),
        (a_pointer, r"-00002-of-00003\.safetensors: expected safetensors, got a pointer of git-lfs"),
        (of_another_model, r"-00002-of-00003\.safetensors: expected a part of (\S+), as .*got one of other; copy all"),
        (trained_otherwise, r"expected a part of (\S+), as \S+ is, got one of \1, made otherwise; copy all parts"),
        (without_a_header, r"expected a part of (\S+), as \S+ is, got one of another kind of file; copy all parts"),
        (the_same_part_twice, r"expected tensors that no other part has, got \S+ again \(\d\d+ in all\); copy all"),
        (one_tensor_twice, r"expected tensors that no other part has, got \S+ again \(1 in all\); copy all"),
        (one_tensor_less, "1 that differ.*missing"),
        (one_tensor_more, r"extra \(1,\) for nothing"),
        (of_another_shape, "1 that differ"),
        (not_finite, "expected finite weights"),
        (far_larger, "far larger network"),
    ],
)
def test_parts_that_are_not_exactly_right_are_refused(mine, damage, message):
    damage(mine)
    with pytest.raises(RejectedModelError, match=message) as caught:
        load_weights(mine[2])
    assert caught.value.exit_code == 5
    assert str(mine[0].parent) in str(caught.value)


def test_a_part_under_another_name_is_told_to_be_one(mine):
    alone = mine[0].rename(mine[0].with_name("alone.safetensors"))
    with pytest.raises(RejectedModelError, match="one of several parts under another name"):
        load_weights(alone)


def test_a_part_that_is_not_there_is_no_model(mine):
    mine[1].unlink()
    with pytest.raises(UnknownModelError, match=r"or a weights file, got '.*-00002-of-00003\.safetensors'"):
        find_model(mine[1])


@pytest.mark.parametrize(
    ("name", "siblings"),
    [
        ("a.safetensors", ["a.safetensors"]),
        ("a-00001-of-00001.safetensors", ["a-00001-of-00001.safetensors"]),
        ("a-1-of-2.safetensors", ["a-1-of-2.safetensors"]),
        ("a-00001-of-00002.pt", ["a-00001-of-00002.pt"]),
        ("-00001-of-00002.safetensors", ["-00001-of-00002.safetensors"]),
        (
            "a-00001-of-00002-00002-of-00002.safetensors",
            ["a-00001-of-00002-00001-of-00002.safetensors", "a-00001-of-00002-00002-of-00002.safetensors"],
        ),
    ],
)
def test_the_name_says_which_files_belong_together(tmp_path, name, siblings):
    assert list(part_paths(tmp_path / name)) == [tmp_path / sibling for sibling in siblings]
    assert is_part(name) == (name.startswith("a-0000") and name.endswith(".safetensors"))


@pytest.mark.parametrize("number", ["00000", "00003"])
def test_numbers_that_no_part_can_have_are_refused(tmp_path, number):
    with pytest.raises(
        RejectedModelError, match=f"expected a part from 00001 to 00002, as its name says, got {number}"
    ):
        read_metadata(tmp_path / f"a-{number}-of-00002.safetensors")


def test_what_cannot_be_split_leaves_nothing_behind(whole, tmp_path):
    with pytest.raises(NothingToDoError, match="expected more than goes into one file of 7,000,000 bytes, got 6,1"):
        split_weights(whole, tmp_path, largest=7_000_000)
    with pytest.raises(UsageError, match=r"largest: expected [\d,]{7,} bytes or more, as model\.\S+ takes, got 10,000"):
        split_weights(whole, tmp_path, largest=10_000)
    (tmp_path / "no.safetensors").write_bytes(b"no")
    with pytest.raises(RejectedModelError, match="expected safetensors"):
        split_weights(tmp_path / "no.safetensors", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["no.safetensors"]


def test_parts_are_not_replaced_unasked_nor_mixed_with_others(whole, mine):
    folder = mine[0].parent
    with pytest.raises(UsageError, match="already there; add --overwrite"):
        split_weights(whole, folder, largest=LARGEST)
    mine[0].write_bytes(b"old")
    assert split_weights(whole, folder, largest=LARGEST, overwrite=True)[0].paths == tuple(mine)
    assert mine[0].read_bytes() != b"old"
    with pytest.raises(UsageError, match="expected no other parts"):
        split_weights(whole, folder, largest=5_000_000, overwrite=True)
    assert sorted(folder.iterdir()) == mine


def test_the_command_says_what_the_list_of_models_needs(whole, parts, tmp_path):
    def split(*arguments):
        return CliRunner().invoke(cli, ["models", "split", str(whole), "--out", str(tmp_path), *arguments])

    done = split("--largest", "2500KB", "--json")
    told = json.loads(done.stdout)
    assert told["sha256"] == read_metadata(parts[0]).sha256
    assert told["bytes"] == sum(part["bytes"] for part in told["parts"]) == sum(p.stat().st_size for p in parts)
    assert [part["file"] for part in told["parts"]] == [str(tmp_path / path.name) for path in parts]
    again = split("--largest", "2500 kb", "--overwrite")
    assert again.exit_code == 0 and told["sha256"] in again.stderr and f"{told['bytes']:,} bytes in all" in again.stderr
    assert split("--largest", "2500000").exit_code == 2, "they are there"
    assert split().exit_code == 4
    for wrong in ("0", "-1MB", "1.5MB", "3TB", "MB", ""):
        assert "expected bytes such as 15MB" in split("--largest", wrong).stderr


def test_models_lists_and_verifies_parts_as_one_model(mine, monkeypatch):
    from palyno.vision import weights

    lock = locked(mine[0].parent, mine)
    monkeypatch.setattr(weights, "LOCK", lock)
    monkeypatch.setattr(weights.shipped_models, "__defaults__", (lock,))

    def run(command):
        done = CliRunner().invoke(cli, ["models", command, "--json"])
        return done.exit_code, json.loads(done.stdout)["models"]

    first = run("list")[1][0]
    assert (first["name"], first["bytes"]) == ("parted", sum(path.stat().st_size for path in mine))
    assert first["classes"] and "problem" not in first
    code, (row,) = run("verify")
    assert (code, row["status"], row["file"]) == (0, "ok", mine[0].name)
    data = mine[1].read_bytes()
    mine[1].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert [(code, row["status"]) for code, (row,) in [run("verify")]] == [(5, "differs")]
    mine[1].unlink()
    assert [(code, row["status"]) for code, (row,) in [run("verify")]] == [(5, "missing")]
    mine[1].mkdir()
    assert [(code, row["status"]) for code, (row,) in [run("verify")]] == [(5, "not readable")]
