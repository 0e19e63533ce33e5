"""The record of a training run: every epoch's losses and speed, for the history, the tracker and the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from components.train.checkpoint import Progress
from components.train.meters import LossSums, Stopwatch, peak_memory_mib
from components.train.tracker import Tracker


class Journal:
    """Follows one training run.

    Args:
        name: shown in front of every line.
        progress: continued in place; a resumed run's earlier epochs are repeated to the tracker.
        metric: name of the validation AP.
        says: print; False in all processes of a training but one.
    """

    def __init__(
        self,
        name: str,
        progress: Progress,
        tracker: Tracker,
        device: torch.device,
        epochs: int,
        steps_per_epoch: int,
        metric: str,
        says: bool = True,
    ) -> None:
        self._says = says
        self.name, self.progress, self.tracker, self.device, self.metric = name, progress, tracker, device, metric
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.clock, self._sums, self._since = Stopwatch(device), LossSums(device, progress.totals), time.perf_counter()
        self._terminal = says and sys.stderr.isatty()
        steps = epochs * steps_per_epoch
        self._bar = tqdm(total=steps, initial=progress.step, desc=name, unit="step", disable=not self._terminal, dynamic_ncols=True)
        for row, timing in zip(progress.history, progress.timing, strict=True):
            tracker.metrics(_metrics(row, timing), int(row["epoch"]))

    def step(self, losses: dict[str, Tensor], images: int) -> bool:
        """Count a step; whether it was its epoch's last."""
        self._sums.add(losses)
        self.clock.step(images)
        self.progress.step += 1
        return self.progress.step % self.steps_per_epoch == 0

    def show(self, loss: Tensor) -> None:
        """Bring the bar up to date; waits for the device."""
        if self._terminal:
            self._bar.set_postfix_str(f"loss {float(loss):.3g}, {_pace(self.clock.read())}", refresh=False)
            self._bar.update(self.progress.step - self._bar.n)

    def end_epoch(self, learning_rate: float, validate: Callable[[], float] | None) -> None:
        """Record a finished epoch.

        Args:
            validate: returns the AP, if this epoch is validated; its time is not counted as training speed.
        """
        epoch = self.progress.step // self.steps_per_epoch
        means = {name: value / self.steps_per_epoch for name, value in self._sums.read().items()}
        row = {"epoch": epoch, "learning_rate": learning_rate, **means}
        timing = {"epoch": epoch, **self.clock.read(), "memory_mib": peak_memory_mib(self.device)}
        if validate is not None:
            row[self.metric] = validate()
        self.progress.history.append(row)
        self.progress.timing.append(timing)
        self.tracker.metrics(_metrics(row, timing), epoch)
        if self._says and (not self._terminal or validate is not None):
            tqdm.write(f"{self.name}  {self._line(row, timing)}", file=sys.stderr)
        self._sums = LossSums(self.device)
        self.clock.restart()

    def settle(self) -> Progress:
        """The progress, with the running epoch's sums and the time so far, ready to be saved."""
        now = time.perf_counter()
        self.progress.totals, self.progress.seconds = self._sums.read(), self.progress.seconds + now - self._since
        self._since = now
        return self.progress

    def close(self, remark: str = "") -> None:
        """End the bar; a remark is printed."""
        self._bar.close()
        self.say(remark)

    def say(self, remark: str) -> None:
        """Print a line, unless it is empty."""
        if remark and self._says:
            tqdm.write(f"{self.name}  {remark}", file=sys.stderr)

    def _line(self, row: dict[str, float], timing: dict[str, float]) -> str:
        ap = f"  AP {row[self.metric]:.3f}" if self.metric in row else ""
        return f"epoch {row['epoch']}/{self.epochs}  loss {row['loss']:.4g}  lr {row['learning_rate']:.1g}{ap}  {_pace(timing)}"


def _metrics(row: dict[str, float], timing: dict[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in (row | timing).items() if name != "epoch"}


def _pace(timing: dict[str, float]) -> str:
    return f"{timing['images_per_second']:.0f} images/s, data {timing['data_share']:.0%}"
