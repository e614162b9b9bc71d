"""The queue against a deque, and what of it survives a restart."""

from collections import deque

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.key_queue import Queue


def rows(queue: Queue) -> list[tuple[float, ...]]:
    """Video and first entry of each key, a row a clip."""
    videos, *keys = queue.entries()
    return sorted(zip(videos.tolist(), *(key[:, 0].tolist() for key in keys), strict=True))


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 9), batches=st.lists(st.integers(0, 25), max_size=6))
def test_holds_the_latest_clips_whatever_the_batch_sizes(size: int, batches: list[int]) -> None:
    queue, naive, number = Queue(size, [3, 2]), deque[tuple[float, ...]](maxlen=size), 0
    for batch in batches:
        clips = torch.arange(number, number + batch)
        queue.add(clips // 2, clips[:, None].float().expand(-1, 3), -clips[:, None].float().expand(-1, 2))
        naive.extend((float(clip // 2), float(clip), -float(clip)) for clip in clips)
        number += batch
        assert rows(queue) == sorted(naive)
        assert [tuple(entry.shape) for entry in queue.entries()] == [(len(naive),), (len(naive), 3), (len(naive), 2)]


def test_a_new_key_takes_the_row_of_the_oldest() -> None:
    queue = Queue(4, [1])
    for clip in range(6):
        queue.add(torch.tensor([clip]), torch.tensor([[10.0 * clip]]))
    assert queue.entries()[0].tolist() == [4, 5, 2, 3]
    assert queue.entries()[1].flatten().tolist() == [40, 50, 20, 30]


def test_a_restored_queue_goes_on_where_the_saved_one_was() -> None:
    saved, restored, generator = Queue(5, [2]), Queue(5, [2]), torch.Generator().manual_seed(0)
    saved.add(torch.arange(3), torch.randn(3, 2, generator=generator))
    restored.load_state_dict(saved.state_dict())
    assert len(restored.entries()[0]) == 3
    more = torch.randn(4, 2, generator=generator)
    for queue in (saved, restored):
        queue.add(torch.arange(3, 7), more)
    for one, other in zip(saved.entries(), restored.entries(), strict=True):
        assert torch.equal(one, other)
    assert all(isinstance(value, torch.Tensor) for value in saved.state_dict().values())


def test_keys_of_a_half_precision_teacher_are_kept_in_float32_without_gradients() -> None:
    queue = Queue(4, [2])
    queue.add(torch.arange(2), torch.ones(2, 2, dtype=torch.bfloat16, requires_grad=True))
    videos, keys = queue.entries()
    assert videos.dtype == torch.int64 and keys.dtype == torch.float32 and not keys.requires_grad


def test_every_teacher_gives_its_keys() -> None:
    with pytest.raises(ValueError, match="zip"):
        Queue(4, [2, 2]).add(torch.arange(2), torch.ones(2, 2))
