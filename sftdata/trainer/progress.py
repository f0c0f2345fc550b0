"""How fast a run goes and how long it will take."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch

PEAK_FLOPS = {
    "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "H800": 989e12, "A100": 312e12, "A800": 312e12, "L40S": 362e12,
    "L4": 121e12, "A10": 125e12, "RTX 4090": 165e12, "RTX 3090": 71e12, "V100": 125e12,
}
"""Dense 16-bit floating-point operations a second that NVIDIA's data sheets give, by a part of the device's name."""


def peak_flops() -> float | None:
    """Return the operations a second that this machine's GPU could make in 16 bits; None for a CPU or an unknown GPU."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def flops_per_token(model: Any, mean_context: float) -> float:
    """Return the floating-point operations of one trained token, forward and backward, without recomputation.

    6 a weight that takes part in a matrix product (4 where it is frozen: no gradient of its own), and 6 · layers · hidden ·
    context for attention, which sees half of a document on average (Chowdhery et al. 2022, appendix B, with causality counted).
    """
    config = model.config
    tied = bool(getattr(config, "tie_word_embeddings", False))
    lookup = set() if tied else {id(model.get_input_embeddings().weight)}
    weights = [weight for weight in model.parameters() if weight.dim() > 1 and id(weight) not in lookup]
    matrices = sum((6 if weight.requires_grad else 4) * weight.numel() for weight in weights)
    layers, hidden = getattr(config, "num_hidden_layers", 0), getattr(config, "hidden_size", 0)
    return float(matrices + 6 * layers * hidden * mean_context)


def duration(seconds: float) -> str:
    """Return seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@dataclass
class Meter:
    """Counts tokens and seconds between log lines; time spent on validation, samples and checkpoints is left out."""

    num_steps: int
    flops_per_token: float = 0.0
    peak: float | None = None
    num_tokens: int = 0
    num_trained: float = 0.0
    _started: float = field(default_factory=time.monotonic)
    _aside: float = 0.0
    _at_lap: tuple[int, float, int] = (0, 0.0, 0)

    def start(self, step: int) -> None:
        """Start the clock after `step` updates."""
        self._started, self._aside = time.monotonic(), 0.0
        self._at_lap = self.num_tokens, self.num_trained, step

    def add(self, num_tokens: int, num_trained: float) -> None:
        """Count the tokens of one update, over all processes."""
        self.num_tokens += num_tokens
        self.num_trained += num_trained

    def set_aside(self, seconds: float) -> None:
        """Leave seconds out that were no training."""
        self._aside += seconds

    def lap(self, step: int) -> dict[str, float]:
        """Return tokens and trained tokens a second since the last lap, the share of the device's peak, and seconds left."""
        seconds = max(time.monotonic() - self._started - self._aside, 1e-9)
        tokens, trained, before = self._at_lap
        speed = {"tokens_per_second": (self.num_tokens - tokens) / seconds,
                 "trained_tokens_per_second": (self.num_trained - trained) / seconds}
        if self.peak and self.flops_per_token:
            speed["mfu"] = speed["tokens_per_second"] * self.flops_per_token / self.peak
        speed["seconds_left"] = seconds / max(step - before, 1) * (self.num_steps - step)
        self.start(step)
        return speed


def speed_words(speed: dict[str, float]) -> str:
    """Return what a log line says of the speed."""
    mfu = f"  MFU {speed['mfu']:.1%}" if "mfu" in speed else ""
    return (
        f"{speed['tokens_per_second']:,.0f} tokens/s  {speed['trained_tokens_per_second']:,.0f} trained/s{mfu}  "
        f"{duration(speed['seconds_left'])} left"
    )
