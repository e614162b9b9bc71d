"""Queue: the latest keys of a contrastive objective, with the videos that they come from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Queue(nn.Module):
    """A ring of the ``size`` latest clips: video numbers (K,) int64, and float32 keys (K, width) of each of ``widths``.

    Several keys of a clip, of teachers that train together, stay in one row. All of it is in the state dict.
    """

    def __init__(self, size: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.size, self.count = size, len(widths)
        # A plain number, since reading one from a GPU would wait for it in every step.
        self.added = 0
        self.register_buffer("videos", torch.zeros(size, dtype=torch.int64))
        for i, width in enumerate(widths):
            self.register_buffer(f"keys{i}", torch.zeros(size, width))

    @torch.no_grad()
    def add(self, videos: Tensor, *keys: Tensor) -> None:
        """Put ``videos`` (N,) and each teacher's keys (N, width) in the place of the oldest; N may exceed the size."""
        kept = min(len(videos), self.size)
        self.added += len(videos)
        rows = torch.arange(self.added - kept, self.added, device=self.get_buffer("videos").device) % self.size
        for buffer, new in zip(self._ring(), (videos, *keys), strict=True):
            buffer[rows] = new[len(new) - kept:].to(buffer.dtype)

    def entries(self) -> tuple[Tensor, ...]:
        """Videos (K,) and each teacher's keys (K, width) of the K <= ``size`` rows filled so far, in ring order."""
        return tuple(buffer[:self.added] for buffer in self._ring())

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.added)

    def set_extra_state(self, state: Tensor) -> None:
        self.added = int(state)

    def _ring(self) -> list[Tensor]:
        return [self.get_buffer("videos"), *(self.get_buffer(f"keys{i}") for i in range(self.count))]
