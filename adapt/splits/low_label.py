"""Shares of the labels, 1, 5 or 10 %, that are the same on every machine.

A class of n samples gives ``max(1, p n / 100)`` of them, a half rounded up, in the order of ``sha256(seed:id)``: so 1 %
lies in 5 % and in 10 %, no class is lost, and whole numbers leave no rounding to the platform.
"""


def share(count: int, percent: int) -> int:
    """How many of a class's ``count`` samples are ``percent`` of them: at least 1, a half rounded up."""
    return max(1, (percent * count + 50) // 100)
