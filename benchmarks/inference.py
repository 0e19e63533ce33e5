"""Speed of variants: torch eager and compiled, CUDA graphs and bf16 on a GPU, ONNX Runtime. Run: python -m benchmarks.inference

For each variant and batch size: images per second, latency (median and 95th percentile of single calls) and memory of the
network alone, on normalised images on the device. Compared variants take turns in one run. Weights are random, so SHaRPose's gate
is left open and everyone is refined. `ratio` is the first one's time over the second one's.

Needs torch, torchvision, timm, numpy, opencv, pandas, pyarrow, scipy, safetensors and PyYAML; parts that need onnx and
onnxruntime are skipped where they are missing. The record goes to results/benchmarks/inference.json (inference_cuda.json on a
GPU), and into the folder $OUT if that is set. `--peers` times variants against MoveNet instead (benchmarks/peers.py).
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import importlib.util
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import peers, report
from components.models import costs, export, zoo
from components.models.variant import Variant

HRNET = "hrnet_w32_coco_64x48_fused"
ONNX_TARGET = 1.8  # ONNX Runtime against eager: HRNet-W32 at 64x48, batch 1, 2 threads
COMPARED = {  # the slower one first: the method's baseline, or the method without its saving
    "SHaRPose-S 64x48, all patches / half of them": ("sharpose_small_coco_64x48_dense", "sharpose_small_coco_64x48"),
    "SHaRPose-S 256x192, all patches / half of them": ("sharpose_small_coco_256x192_dense", "sharpose_small_coco_256x192"),
    "WholeBody ResNet-50 256x192, SimpleBaseline / SIU": ("simple_resnet50_wholebody_256x192", "siu_resnet50_wholebody_256x192"),
    "ResNet-50 256x192, SimpleBaseline / SRPose": ("simple_resnet50_coco_256x192", "srpose_resnet50_coco_256x192"),
}
PAUSE = 0.05  # s before each turn: ONNX Runtime's threads spin for a while after a call
WARM_UP_CALLS = 2
TURN_SECONDS, MOST_CALLS = 0.3, 100

Call = Callable[[], Any]


@dataclass
class Subject:
    """One variant in one mode, ready to be called on a batch.

    Attributes:
        memory_mib: memory that one call adds; None if unknown.
        calls: per turn.
        seconds: of every call, one list per turn.
    """

    variant: Variant
    mode: str
    batch: int
    call: Call
    memory_mib: float | None = None
    calls: int = 1
    seconds: list[list[float]] = field(default_factory=list)

    @property
    def turns(self) -> list[float]:
        """Median seconds of each turn's calls."""
        return [statistics.median(turn) for turn in self.seconds]


def modes(model: nn.Module, variant: Variant, images: Tensor, arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Call]]:
    """Each mode's name and call, starting with eager, which `farpose evaluate` uses."""
    yield "eager", lambda: model(images)
    if images.is_cuda:
        yield "bf16", lambda: _bf16(model, images)
        yield "graph", _graphed(lambda: model(images))
        yield "graph_bf16", _graphed(lambda: _bf16(model, images))
    else:
        last = copy.deepcopy(model).to(memory_format=torch.channels_last)
        strided = images.contiguous(memory_format=torch.channels_last)
        yield "channels_last", lambda: last(strided)
    if images.is_cuda or arguments.compile:
        compiled = torch.compile(model)
        yield "compiled", lambda: _bf16(compiled, images) if images.is_cuda else compiled(images)
    if not images.is_cuda and has_onnx():
        path = folder / f"{variant.name}.onnx"
        if not path.is_file():
            export.to_onnx(model, variant.input_size, path)
        run = export.runtime(path)
        yield "onnxruntime", lambda: run(images)


def has_onnx() -> bool:
    return all(importlib.util.find_spec(package) for package in ("onnx", "onnxruntime"))


def _bf16(model: Callable[[Tensor], Any], images: Tensor) -> Any:
    with torch.autocast("cuda", torch.bfloat16):
        return model(images)


@torch.inference_mode()
def _graphed(call: Call) -> Call:
    """The call recorded as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def subjects(name: str, batch: int, arguments: argparse.Namespace, folder: Path) -> list[Subject]:
    """A variant in every mode, after its first calls, which decide the number of calls per turn."""
    torch.manual_seed(0)
    variant, device = export.exported_form(zoo.variant(name)), torch.device(arguments.device)
    model = zoo.network(variant).eval().to(device)
    images = torch.randn(batch, 3, *variant.input_size, generator=torch.Generator().manual_seed(0)).to(device)
    made = []
    for mode, call in modes(model, variant, images, arguments, folder):
        subject = Subject(variant, mode, batch, _waiting(call, device))
        if mode != "onnxruntime":  # it keeps its memory after the first call; torch's first call loads libraries
            subject.call()
        subject.memory_mib = memory_of(subject.call, device)
        _timed(subject.call)
        subject.calls = max(1, min(MOST_CALLS, round(TURN_SECONDS / _timed(subject.call))))
        made.append(subject)
    return made


def _waiting(call: Call, device: torch.device) -> Call:
    """The call in inference mode, which returns only when the device has finished."""

    def run() -> None:
        with torch.inference_mode():
            call()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def _timed(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def take_turns(group: list[Subject], repeats: int) -> None:
    """Time all subjects `repeats` times, one after another, so that a busy machine slows all of them alike."""
    for _ in range(repeats):
        for subject in group:
            time.sleep(PAUSE)
            for _ in range(WARM_UP_CALLS if subject.calls > 1 else 0):  # a long call warms itself up
                subject.call()
            subject.seconds.append([_timed(subject.call) for _ in range(subject.calls)])


def memory_of(call: Call, device: torch.device) -> float | None:
    """MiB by which one call raises the memory in use: activations, and memory that the runtime keeps for them."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # returns free memory to the system, so that the call requests it again
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except OSError:  # not Linux with glibc
        call()
        return None
    before = _resident("VmRSS")
    call()
    return (_resident("VmHWM") - before) / 2**20


def _resident(kind: str) -> int:
    """Bytes of this process's memory, now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(kind))


def record_of(subject: Subject, eager: Subject) -> dict[str, Any]:
    """One line of the record; times in ms."""
    calls = sorted(second for turn in subject.seconds for second in turn)
    median = statistics.median(calls)
    spent = costs.of_variant(subject.variant)
    return {
        "variant": subject.variant.name,
        "batch": subject.batch,
        "mode": subject.mode,
        "images_per_second": round(subject.batch / median, 2),
        "latency_ms": round(1e3 * median, 3),
        "latency_p95_ms": round(1e3 * calls[min(len(calls) - 1, int(0.95 * len(calls)))], 3),
        "turns_ms": [round(1e3 * turn, 3) for turn in subject.turns],
        "calls": len(calls),
        "memory_mib": None if subject.memory_mib is None else round(subject.memory_mib, 1),
        "weights_mib": round(4 * (spent.params - spent.params_train_only) / 2**20, 1),
        "gmacs": round(spent.macs / 1e9, 3),
        "against_eager": round(statistics.median(eager.turns) / statistics.median(subject.turns), 3),
    }


def rows_of(title: str | None, group: list[Subject]) -> list[dict[str, Any]]:
    """Rows with a target: ONNX Runtime on HRNet, and pairs of variants in eager mode and by their multiply-adds."""
    of = {(subject.variant.name, subject.mode): subject for subject in group}
    batch, rows = group[0].batch, []
    if (HRNET, "onnxruntime") in of and batch == 1:
        eager, last, runtime = (of[HRNET, mode] for mode in ("eager", "channels_last", "onnxruntime"))
        against_last = round(statistics.median(last.turns) / statistics.median(runtime.turns), 3)
        name = f"eager / ONNX Runtime, HRNet-W32 64x48, batch 1, {torch.get_num_threads()} threads"
        rows.append(report.row(name, eager.turns, runtime.turns, ONNX_TARGET, against_channels_last=against_last))
    if title:
        slow, fast = (of[name, "eager"] for name in COMPARED[title])
        more: dict[str, Any] = {}
        if slow.variant.paper.fps and fast.variant.paper.fps:
            more["paper_ratio"] = round(fast.variant.paper.fps / slow.variant.paper.fps, 3)
        for mode in {subject.mode for subject in group} - {"eager"}:
            pair = [statistics.median(of[name, mode].turns) for name in COMPARED[title]]
            more[f"ratio_{mode}"] = round(pair[0] / pair[1], 3)
        more["macs_ratio"] = round(costs.of_variant(slow.variant).macs / costs.of_variant(fast.variant).macs, 3)
        rows.append(report.row(f"{title}, batch {batch}", slow.turns, fast.turns, 1.0, **more))
    return rows


def groups(names: list[str]) -> list[tuple[str | None, list[str]]]:
    """Groups that are timed together: pairs that are compared, then each of the other variants alone."""
    pairs = [(title, list(pair)) for title, pair in COMPARED.items() if set(pair) <= set(names)]
    paired = {name for _, pair in pairs for name in pair}
    return [*pairs, *((None, [name]) for name in names if name not in paired)]


def show(lines: list[dict[str, Any]]) -> None:
    """Print lines of the record as a table."""
    for line in lines:
        memory = "" if line["memory_mib"] is None else f"{line['memory_mib']:9.1f} MiB"
        times = f"{line['latency_ms']:10.2f} ms {line['latency_p95_ms']:10.2f} ms p95"
        speed = f"{line['images_per_second']:10.1f} images/s {times}{memory} {line['against_eager']:7.2f}x"
        print(f"{line['variant']:44} {line['batch']:3}  {line['mode']:14}{speed}", flush=True)


def arguments_of() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = [HRNET, *dict.fromkeys(name for pair in COMPARED.values() for name in pair)]
    parser.add_argument("--variants", nargs="+", metavar="NAME", help="what to time; pairs of the table are compared")
    parser.add_argument("--peers", action="store_true", help="against MoveNet, one thread; variants of the example coco_pretrained")
    parser.add_argument("--all", action="store_true", help="every variant (hours); those whose weights SPSR needs are left out")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 64])
    parser.add_argument("--repeats", type=int, default=7, help="turns of each subject, at least 5")
    parser.add_argument("--threads", type=int, default=2, help="on the CPU")
    parser.add_argument("--compile", action="store_true", help="torch.compile on the CPU too (minutes for each variant)")
    arguments = parser.parse_args()
    if arguments.variants is None:
        arguments.variants = peers.default_variants() if arguments.peers else default
    if arguments.all:
        arguments.variants = [name for name, variant in zoo.load_variants().items() if variant.upscale != "spsr"]
    return arguments


def against_peers(arguments: argparse.Namespace) -> None:
    """The benchmark of benchmarks/peers.py."""
    command = " ".join(["python", "-m", "benchmarks.inference", *sys.argv[1:]])
    with tempfile.TemporaryDirectory() as folder:
        path = peers.measure(arguments.variants, max(5, arguments.repeats), Path(folder), command=command, load=os.getloadavg()[0])
    if "OUT" in os.environ:
        shutil.copy(path, os.environ["OUT"])


def main() -> None:
    arguments = arguments_of()
    if arguments.peers:
        against_peers(arguments)
        return
    torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.benchmark = True
    load, rows, lines = [os.getloadavg()[0]], [], []
    if arguments.device == "cpu" and not has_onnx():
        print("onnx or onnxruntime is not installed: their column is left out")
    with tempfile.TemporaryDirectory() as folder:
        for title, names in groups(arguments.variants):
            for batch in arguments.batches:
                group = [subject for name in names for subject in subjects(name, batch, arguments, Path(folder))]
                take_turns(group, max(5, arguments.repeats))
                eager = {subject.variant.name: subject for subject in group if subject.mode == "eager"}
                lines += [record_of(subject, eager[subject.variant.name]) for subject in group]
                rows += rows_of(title, group)
                show(lines[-len(group) :])
    load.append(os.getloadavg()[0])
    name = "inference" if arguments.device == "cpu" else f"inference_{arguments.device}"
    command = " ".join(["python", "-m", "benchmarks.inference", *sys.argv[1:]])
    path = report.write(name, rows, command=command, device=arguments.device, threads=arguments.threads, load=load, measured=lines)
    if "OUT" in os.environ:
        shutil.copy(path, os.environ["OUT"])


if __name__ == "__main__":
    main()
