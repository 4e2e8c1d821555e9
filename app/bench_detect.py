"""palyno beside two other ways to run the very same weights on the very same images.

- `palyno`: tiles with centre ownership, as `palyno detect` does it.
- `ultralytics`: the whole image scaled to the network's input, at most 300 boxes; its predictor's
  defaults, but for the limit of suppression, which is palyno's.
- `sahi`: overlapping slices merged afterwards, 20 % overlap; its defaults.

Each runs in a process of its own, so that its peak memory is its own. Time is from the file to the boxes; importing,
loading and a first small picture come before.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import NothingToDoError, PalynoError, UsageError
from ..vision.duplicates import IOU

if TYPE_CHECKING:
    from ..vision.models.trainer import PollenYOLO

__all__ = ["METHODS", "bench_detect", "match"]

METHODS = ("palyno", "ultralytics", "sahi")
MATCH_IOU = 0.5

Finder = Callable[[Path], tuple[np.ndarray, np.ndarray]]


def bench_detect(
    images: Sequence[str | Path],
    labels: str | Path | None = None,
    model: str | Path = "hieraedge-n",
    *,
    device: str = "auto",
    conf: float = 0.25,
    iou: float = IOU,
    tile: int = 640,
    methods: Sequence[str] = METHODS,
) -> dict[str, Any]:
    """Compares ways to detect; taxa are left out, as only finding and counting differ.

    Args:
        images: Images that each method can decode whole.
        labels: Folder with a YOLO label file `STEM.txt` for each image, or a COCO file that has them all; None compares
            counts and cost alone.
        model: Name of a model, or a weights file.
        device: Where all of them run.
        conf: Least confidence. For palyno that there is a grain, for the others that it is of its likeliest class.
        iou: Limit of suppression inside a tile, and of ultralytics' over the image.
        tile: Side of tiles and slices, and of the network's input.
        methods: Which of `METHODS` to run.

    Returns:
        The settings; `methods`, a row each with grains found, true ones, count error in percent, precision, recall,
        seconds, CPU threads at the end and peak memory; and `slides`, the same figures an image.

    Raises:
        NothingToDoError: No images.
        UsageError: There is no such method.
        PalynoError: A method failed; for SAHI, it may not be installed.
    """
    if not images:
        raise NothingToDoError("expected at least one image to compare on, got none")
    if unknown := sorted(set(methods) - set(METHODS)):
        raise UsageError(f"methods: expected some of {', '.join(METHODS)}; got {', '.join(unknown)}")
    paths = [Path(image).absolute() for image in images]
    settings = {"model": str(model), "device": device, "conf": conf, "iou": iou, "tile": tile}
    if Path(model).is_file():
        settings["model"] = str(Path(model).absolute())
    truths = [_truth(path, Path(labels)) if labels else None for path in paths]
    rows, slides = [], []
    for method in methods:
        answer = _in_own_process({"method": method, "images": [str(path) for path in paths], **settings})
        figures = []
        for path, truth, found in zip(paths, truths, answer["slides"], strict=True):
            figure: dict[str, Any] = {"method": method, "slide": path.name, "found": len(found["boxes"])}
            if truth is not None:
                matched = match(np.array(found["boxes"]).reshape(-1, 4), np.array(found["scores"]), truth)
                figure |= {"true": len(truth), "matched": matched}
            figures.append(figure | {"seconds": round(found["seconds"], 3)})
        slides += figures
        # Seconds compare only where the threads are the same, and on a machine that does nothing else.
        rows.append(_row(method, figures) | {key: answer[key] for key in ("threads", "peak_mib", "peak_gpu_mib")})
    return {**settings, "model": str(model), "images": len(paths), "methods": rows, "slides": slides}


def match(boxes: np.ndarray, scores: np.ndarray, truth: np.ndarray, iou: float = MATCH_IOU) -> int:
    """How many boxes are true: surest first, each takes the free true box that it overlaps most, from `iou` on.

    Args:
        boxes: `xyxy`, (N, 4).
        scores: (N,).
        truth: `xyxy`, (M, 4).
        iou: Least intersection over union of a match.
    """
    from ..vision.metrics import match as partners

    return int((partners(truth, boxes, scores, iou) >= 0).sum())


def _row(method: str, figures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of all images together."""
    row: dict[str, Any] = {"method": method, "found": sum(f["found"] for f in figures)}
    if "true" in figures[0]:
        row["true"] = sum(f["true"] for f in figures)
        # Of each image by itself, so that more here and fewer there do not cancel.
        errors = [abs(f["found"] - f["true"]) / f["true"] for f in figures if f["true"]]
        row["count_error_percent"] = round(100 * float(np.mean(errors)), 2) if errors else None
        matched = sum(f["matched"] for f in figures)
        row["precision"] = round(matched / row["found"], 4) if row["found"] else None
        row["recall"] = round(matched / row["true"], 4) if row["true"] else None
    return row | {"seconds": round(sum(f["seconds"] for f in figures), 2)}


def _truth(image: Path, labels: Path) -> np.ndarray:
    from ..data.annotations.coco import read_coco
    from ..data.annotations.yolo import read_boxes
    from ..data.slides import open_slide

    if labels.is_file():
        boxes = {Path(one.image).name: one.boxes for one in read_coco(labels)}
        if image.name not in boxes:
            raise UsageError(f"{labels}: expected boxes of {image.name}, found those of {', '.join(sorted(boxes))}")
        return boxes[image.name]
    with open_slide(image) as slide:
        width, height = slide.width, slide.height
    return read_boxes(labels / f"{image.stem}.txt", image=image.name, width=width, height=height)


def _in_own_process(task: dict[str, Any]) -> dict[str, Any]:
    """Runs one method; what the libraries print does not mix with its answer, which is a file."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-m", __name__, json.dumps({**task, "answer": str(answer)})]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode or not answer.exists():
            last = (done.stdout.strip().splitlines() or ["it printed nothing"])[-1]
            raise PalynoError(f"{task['method']}: expected boxes, got exit code {done.returncode}: {last}")
        return json.loads(answer.read_text(encoding="utf-8"))


def _run(task: dict[str, Any]) -> None:
    """The work of one process: every image with one method."""
    import torch
    from PIL import Image

    threads = torch.get_num_threads()
    find = {"palyno": _palyno, "ultralytics": _ultralytics, "sahi": _sahi}[task["method"]](task)
    answer = Path(task["answer"])
    first = answer.with_name("first.png")
    Image.new("RGB", (64, 64), "white").save(first)
    find(first)
    # ultralytics leaves one core out when it first picks the CPU.
    torch.set_num_threads(threads)
    slides = []
    for image in task["images"]:
        start = time.perf_counter()
        boxes, scores = find(Path(image))
        seconds = time.perf_counter() - start
        slides.append({"boxes": np.asarray(boxes).tolist(), "scores": np.asarray(scores).tolist(), "seconds": seconds})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_initialized() else None
    document = {
        "slides": slides,
        "threads": torch.get_num_threads(),
        "peak_mib": round(peak),
        "peak_gpu_mib": gpu and round(gpu),
    }
    answer.write_text(json.dumps(document), encoding="utf-8")


def _palyno(task: dict[str, Any]) -> Finder:
    from ..vision.detector import load

    detector = load(task["model"], device=task["device"], runtime="torch")

    def find(path: Path) -> tuple[np.ndarray, np.ndarray]:
        result = detector.detect(path, conf=task["conf"], iou=task["iou"], tile=task["tile"])
        return result.boxes, result.confidence

    return find


def _ultralytics(task: dict[str, Any]) -> Finder:
    yolo, device = _yolo(task)

    def find(path: Path) -> tuple[np.ndarray, np.ndarray]:
        result: Any
        # It takes arrays in OpenCV's order of colours.
        (result,) = yolo.predict(
            _pixels(path)[..., ::-1].copy(),
            imgsz=task["tile"],
            conf=task["conf"],
            iou=task["iou"],
            device=device,
            verbose=False,
        )
        return result.boxes.xyxy.cpu().numpy(), result.boxes.conf.cpu().numpy()

    return find


def _sahi(task: dict[str, Any]) -> Finder:
    try:
        from sahi import AutoDetectionModel
        from sahi.predict import get_sliced_prediction
    except ImportError as error:
        raise PalynoError("sahi is not installed: add the dependency group `test`, or leave the method out") from error
    yolo, device = _yolo(task)
    model = AutoDetectionModel.from_pretrained(
        model_type="ultralytics",
        model=yolo,
        confidence_threshold=task["conf"],
        device=device,
        image_size=task["tile"],
    )

    def find(path: Path) -> tuple[np.ndarray, np.ndarray]:
        found = get_sliced_prediction(
            _pixels(path), model, slice_height=task["tile"], slice_width=task["tile"], verbose=0
        ).object_prediction_list
        return np.array([f.bbox.to_xyxy() for f in found]), np.array([f.score.value for f in found])

    return find


def _yolo(task: dict[str, Any]) -> tuple[PollenYOLO, str]:
    """The weights in ultralytics' front end, and the device as it calls it."""
    from ..vision.network import choose_device
    from ..vision.weights import find_model, load_weights

    device = str(choose_device(task["device"]))
    path, shipped = find_model(task["model"])
    model: Any
    model, metadata = load_weights(path, shipped=shipped)
    from ..vision.models.trainer import PollenYOLO

    yolo = PollenYOLO("hieraedge-n", classes=metadata.classes)
    model.args, model.task, model.names = yolo.model.args, "detect", dict(enumerate(metadata.classes))
    yolo.model = model
    return yolo, "cuda:0" if device == "cuda" else device


def _pixels(path: Path) -> np.ndarray:
    from ..data.slides import open_slide

    with open_slide(path) as slide:
        return slide.read(0, 0, slide.width, slide.height)


if __name__ == "__main__":
    try:
        _run(json.loads(sys.argv[1]))
    except PalynoError as error:
        sys.exit(str(error))
