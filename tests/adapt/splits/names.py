"""Sample names for split tests: the official lists where they are, and small made-up ones."""

from functools import cache

from tests.paths import DATA, need

PROTOCOLS = DATA / "protocols"
MISSING = {"ntu60": "samples_with_missing_skeletons.txt", "ntu120": "NTU_RGBD120_samples_with_missing_skeletons.txt"}


@cache
def official(data: str) -> tuple[str, ...]:
    return tuple(need(PROTOCOLS / data / "skes_available_name.txt").read_text().split())


def ntu_name(action: int, camera: int = 1, performer: int = 8, repetition: int = 1, setup: int = 0) -> str:
    """A name that NTU could have: A001 to A060 in odd and A061 to A120 in even setups, unless told otherwise."""
    return f"S{setup or (1 if action <= 60 else 18):03d}C{camera:03d}P{performer:03d}R{repetition:03d}A{action:03d}"


def ntu_names() -> list[str]:
    """Every action by two performers (8 trains) before three cameras."""
    return [ntu_name(action, camera, performer)
            for action in range(1, 121) for performer in (3, 8) for camera in (1, 2, 3)]
