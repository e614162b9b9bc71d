"""Whatever a file holds is said in one short line."""

import pytest
import torch

from skelcore.brief import brief


@pytest.mark.parametrize("value", [
    "x" * 10**6, "a\nb" * 100, b"x" * 10**6, 10**600, 10**5000, [[["x" * 100] * 100] * 100] * 100, {"k" * 999: {}},
    torch.zeros(100, 100), {3: torch.zeros(100, 100)}, tuple(range(10**5)),
], ids=["text", "lines", "bytes", "number", "huge number", "nested", "key", "tensor", "tensor in it", "tuple"])
def test_anything_is_one_short_line(value: object) -> None:
    assert 0 < len(brief(value)) <= 80 and brief(value).isprintable()


def test_what_is_short_is_said_whole() -> None:
    assert brief({"a": [1, "b"]}) == "{'a': [1, 'b']}"
