"""Progress bar: the progress and speed of a running training."""

from __future__ import annotations

import sys
import time


class Speed:
    """Images per second of one epoch, from its start to its last step, so that testing does not count."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """An epoch begins now."""
        self._began = self._last = time.perf_counter()
        self._images = 0

    def count(self, images: int) -> None:
        """`images` more images have been trained on."""
        self._images += images
        self._last = time.perf_counter()

    @property
    def images_s(self) -> float | None:
        """Images per second; None before the first."""
        took = self._last - self._began
        return self._images / took if self._images and took > 0 else None


class Bar:
    """One line on a terminal (stderr) for all epochs of a phase: steps done, remaining time, speed, loss, accuracy."""

    def __init__(self, phase: str, epochs: int, steps: int, epoch: int, step: int) -> None:
        from tqdm import tqdm

        self._phase, self._epochs = phase, epochs
        self._loss = self._top1 = self._speed = ""
        self._bar = tqdm(
            desc=self._counted(epoch), total=epochs * steps, initial=epoch * steps + step, file=sys.stderr,
            dynamic_ncols=True,
            bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]",
        )  # fmt: skip

    def step(self, loss: float | None, images_s: float | None) -> None:
        """A step was made; `loss` is None if unknown."""
        self._loss = self._loss if loss is None else f"loss {loss:.3f}"
        self._speed = "" if images_s is None else f"{images_s:.0f} images/s"
        self._refresh()
        self._bar.update()

    def epoch(self, epoch: int, top1: float | None) -> None:
        """An epoch begins, counted from 0; `top1` is the accuracy after the previous one."""
        self._top1 = self._top1 if top1 is None else f"top-1 {top1:.1%}"
        self._refresh()
        self._bar.set_description_str(self._counted(epoch))

    def close(self) -> None:
        """Leave the line as it is."""
        self._bar.close()

    def _counted(self, epoch: int) -> str:
        return f"{self._phase} {min(epoch + 1, self._epochs)}/{self._epochs}"

    def _refresh(self) -> None:
        known = filter(None, (self._speed, self._loss, self._top1))
        self._bar.set_postfix_str(", ".join(known), refresh=False)
