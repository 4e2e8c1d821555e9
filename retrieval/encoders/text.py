"""Sentences to vectors: `TextEncoder`, all-MiniLM-L6-v2 without a network.

    encoder = TextEncoder()
    encoder.encode(["triporate grain with a smooth wall", "Betula"])   # (2, 384) float32, unit length

It reads English best; other languages reach it through `retrieval.glossary`. Of other scripts it knows letters but no
words: a text in one has a vector, as in sentence-transformers, that means nothing, and `readable` says so. A text of
more than 254 word pieces is read in windows of up to 254, one every 200 or a little less, so that no word is cut and
neighbours share about 54. Its vector is the mean of the windows' unit vectors, each weighted by its pieces, at unit
length. `passages` gives the windows as texts, for who would rather keep a vector of each and let the best one count.
"""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from ...errors import UsageError
from .text_graph import GRAPH, WIDTH, weight_names
from .text_weights import SHA256, TextFiles, read_files

if TYPE_CHECKING:
    from .text_model import MiniLM

__all__ = ["RUNTIMES", "STRIDE", "WINDOW", "TextEncoder"]

RUNTIMES = ("onnxruntime", "torch")

# Word pieces that the network reads at once, without the two marks around them: it was published for 256 in all.
WINDOW = 254
STRIDE = 200

_NAME = "all-MiniLM-L6-v2"

# The tokenizer has the commonest letters of other scripts, too, but the network has learned no words in them.
_LETTER, _LATIN = re.compile(r"[^\W\d_]"), re.compile(r"[a-zA-ZªºµÀ-ÖØ-öø-ɏḀ-ỿ]")


class _Run(Protocol):
    def __call__(self, pieces: np.ndarray, mask: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class _Window:
    """Word pieces that are read at once, and the text that each was given for."""

    text: int
    pieces: list[int]


class TextEncoder:
    """The shipped sentence encoder; it may be used from several threads.

    Equal texts get equal vectors to 1e-6 whatever stands beside them, in either runtime, and in any Unicode form.

    Args:
        folder: Holds the weights; None takes `$PALYNO_TEXT_MODEL`, else the installed package.
        runtime: `onnxruntime`, or `torch` with the network as `network`.
        batch: Windows read at once; more costs memory and changes nothing else.
        threads: Of onnxruntime; None lets it take every core.

    Raises:
        RejectedModelError: The weights are missing or not the expected ones.
        UsageError: An option that cannot be meant.
    """

    dim = WIDTH
    modality: Literal["text"] = "text"

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        runtime: str = "onnxruntime",
        batch: int = 32,
        threads: int | None = None,
    ):
        if runtime not in RUNTIMES:
            raise UsageError(f"runtime: expected one of {', '.join(RUNTIMES)}; got {runtime!r}")
        for name, value in (("batch", batch), ("threads", 1 if threads is None else threads)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"{name}: expected a whole number above zero, got {value!r}")
        self.runtime, self.batch, self.threads = runtime, batch, threads
        self._folder = folder
        self._lock = threading.RLock()
        self._files: TextFiles | None = read_files(folder)
        self._tokenizer = _tokenizer(self._files)
        self._runner: _Run | None = None

    @property
    def encoder_id(self) -> str:
        """Name, start of the weights' sha256, pooling, window and stride."""
        return f"{_NAME}/{SHA256['model.safetensors'][:12]}/mean/{WINDOW}+{STRIDE}"

    @cached_property
    def network(self) -> MiniLM:
        """The network in PyTorch, on the CPU, to open and build on; `encode` runs it where `runtime` is `torch`.

        Vectors of a network that was changed are others: never store them under this encoder's id.
        """
        from .text_model import MiniLM

        with self._lock:
            return MiniLM.from_tensors((self._files or read_files(self._folder)).tensors())

    def encode(self, items: Sequence[str]) -> np.ndarray:
        """Vectors of texts.

        Args:
            items: Texts of any length.

        Returns:
            (n, 384) float32, each row of unit length, in the order of the texts.

        Raises:
            UsageError: Not a sequence of texts, or a text without anything the encoder can read: empty, white space, or
                only characters that none of its word pieces has.
        """
        windows = list(self._windows(items))
        vectors = np.zeros((len(items), WIDTH), np.float64)
        # Windows of like length go together, so that little is filled up.
        order = sorted(range(len(windows)), key=lambda i: len(windows[i].pieces))
        for start in range(0, len(order), self.batch):
            some = [windows[i] for i in order[start : start + self.batch]]
            found = self._run(*_filled([window.pieces for window in some]))
            for window, vector in zip(some, found, strict=True):
                vectors[window.text] += len(window.pieces) * vector.astype(np.float64)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors / norms).astype(np.float32)

    def readable(self, items: Sequence[str]) -> np.ndarray:
        """Which texts `encode` takes and, as they are mostly in Latin letters, gives a meaning: (n,) bool."""
        pieces = self._pieces(items)
        return np.array([self._reason(one) is None and not self._foreign(one) for one in pieces], bool)

    def tokens(self, text: str) -> list[str]:
        """The word pieces of a text as the encoder sees them; `##` marks one that goes on."""
        return next(iter(self._pieces([text]))).tokens

    def passages(self, text: str) -> list[str]:
        """The windows of a text as texts, in order; a text of at most 254 word pieces comes back whole, stripped.

        Raises:
            UsageError: There is nothing in it that the encoder can read.
        """
        (encoding,) = self._pieces([text])
        if reason := self._reason(encoding):
            raise UsageError(reason)
        clean, offsets = _clean(text), encoding.offsets
        if len(offsets) <= WINDOW:
            return [clean.strip()]
        return [clean[offsets[a][0] : offsets[b - 1][1]] for a, b in _spans(encoding.word_ids)]

    def _windows(self, items: Sequence[str]) -> Iterator[_Window]:
        for index, encoding in enumerate(self._pieces(items)):
            if reason := self._reason(encoding):
                raise UsageError(f"text {index}: {reason}")
            for start, stop in _spans(encoding.word_ids):
                yield _Window(index, encoding.ids[start:stop])

    def _pieces(self, items: Sequence[str]) -> list[Any]:
        if isinstance(items, str) or not isinstance(items, Sequence):
            raise UsageError(f"texts: expected a list of texts, got {type(items).__name__}; put a single one in a list")
        for index, text in enumerate(items):
            if not isinstance(text, str):
                raise UsageError(f"text {index}: expected a text, got {type(text).__name__}")
        return self._tokenizer.encode_batch([_clean(text) for text in items], add_special_tokens=False)

    def _reason(self, encoding: Any) -> str | None:
        """Why a text cannot be read, or None."""
        if not encoding.ids:
            return "expected words, got a text with nothing to read in it (empty, or only spaces); leave it out"
        unknown = self._tokenizer.token_to_id("[UNK]")
        if all(piece == unknown for piece in encoding.ids):
            return (
                "expected words, got only characters that the sentence encoder does not know; it reads Latin letters "
                "best, so give a translation or a Latin name, or search by words"
            )
        return None

    def _foreign(self, encoding: Any) -> bool:
        """Whether most pieces of a text are unknown, or letters of another script."""
        unknown = self._tokenizer.token_to_id("[UNK]")
        foreign = sum(
            number == unknown or (_LETTER.search(piece) is not None and _LATIN.search(piece) is None)
            for number, piece in zip(encoding.ids, encoding.tokens, strict=True)
        )
        return 2 * foreign > len(encoding.ids)

    def _run(self, pieces: np.ndarray, mask: np.ndarray) -> np.ndarray:
        with self._lock:
            if self._runner is None:
                if self.runtime == "torch":
                    self._runner = _torch_run(self.network)
                else:
                    self._runner = _onnx_run(self._files or read_files(self._folder), self.threads)
                # 90 MB that the runtime has a copy of.
                self._files = None
        return self._runner(pieces, mask)


def _clean(text: str) -> str:
    """One spelling of each character; half characters, which no encoding has, become the mark for unknown ones."""
    return unicodedata.normalize("NFC", text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))


def _spans(words: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Windows over pieces, given the word of each; every piece is in one, and no word is cut.

    A word has at most 100 pieces: the tokenizer takes a longer one for unknown, which is one piece.
    """

    def word_start(place: int) -> int:
        while place < len(words) and words[place - 1] == words[place]:
            place -= 1
        return place

    start = 0
    while (stop := start + WINDOW) < len(words):
        yield start, word_start(stop)
        start = word_start(start + STRIDE)
    yield start, len(words)


def _filled(rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Pieces between their marks, filled up to the longest, and a mask of what is there: both (n, length) int64."""
    begin, end = 101, 102  # [CLS], [SEP]
    length = max(map(len, rows)) + 2
    pieces, mask = np.zeros((2, len(rows), length), np.int64)
    for i, row in enumerate(rows):
        pieces[i, : len(row) + 2] = [begin, *row, end]
        mask[i, : len(row) + 2] = 1
    return pieces, mask


def _tokenizer(files: TextFiles) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(files.tokenizer)
    # The file says to cut at 128 pieces, silently.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _torch_run(network: MiniLM) -> _Run:
    import torch

    def run(pieces: np.ndarray, mask: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(pieces), torch.from_numpy(mask).bool()).numpy()

    return run


def _onnx_run(files: TextFiles, threads: int | None) -> _Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Spinning threads take the cores that other work in the process needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    tensors = files.tensors()
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(tensors[name]) for name in weight_names()]
    options.add_external_initializers(list(weight_names()), values)
    session = onnxruntime.InferenceSession(GRAPH.read_bytes(), options, providers=["CPUExecutionProvider"])

    def run(pieces: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return session.run(None, {"pieces": pieces, "mask": mask})[0]

    return run
