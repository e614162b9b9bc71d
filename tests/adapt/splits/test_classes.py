import hashlib
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.splits import classes
from skelcore.errors import InputError

NAMES = st.lists(st.text(max_size=8), min_size=3, max_size=40, unique=True)
ACTIONS = [f"A{action:03d}" for action in range(1, 121)]


def test_ntu120_classes_are_published() -> None:
    split = classes.split("ntu120_episodes", ACTIONS, 80, 20)
    assert [len(split.parts[part]) for part in classes.PARTS] == [80, 20, 20]
    assert split.sha256 == {"base": "9fbc509d081686c374537f0f009a5dc39674f5dd73348fd21386a33002174acb",
                            "validation": "4b3f81510985aeece044c50beef9cb380d61c53fa3ecea2ce09f5dbe7808adb5",
                            "novel": "0b81dc81e0021e2984f0751d3c1837cb0fae217e1af582e4c27ba372675bce66"}


def test_rule_by_hand() -> None:
    names = ["walk", "run", "jump", "bow", "clap"]
    ordered = sorted(names, key=lambda name: hashlib.sha256(f"7:{name}".encode()).hexdigest())
    split = classes.split("five", names, 2, 1, seed=7)
    assert split.parts == {"base": tuple(sorted(ordered[:2])), "validation": (ordered[2],),
                           "novel": tuple(sorted(ordered[3:]))}


@given(NAMES, st.data())
def test_parts_are_disjoint_complete_and_independent_of_order(names: list[str], data: st.DataObject) -> None:
    base = data.draw(st.integers(1, len(names) - 1))
    validation = data.draw(st.integers(0, len(names) - base - 1))
    split = classes.split("any", names, base, validation, seed=3)
    assert sorted(each for part in split.parts.values() for each in part) == sorted(names)
    assert not any(set(one) & set(other) for one, other in combinations(split.parts.values(), 2))
    assert [len(split.parts[part]) for part in ("base", "validation")] == [base, validation]
    assert classes.split("any", data.draw(st.permutations(names)), base, validation, seed=3) == split


def test_shares_of_known_data_sets() -> None:
    assert classes.shares(400) == (240, 80)
    assert classes.shares(120) == (72, 24)
    assert classes.shares(5) == (3, 1)


def test_bad_input() -> None:
    for base, validation in ((0, 1), (2, 1), (1, -1)):
        with pytest.raises(InputError, match=rf"three: base={base} and validation={validation} leave no base or novel"):
            classes.split("three", ["a", "b", "c"], base, validation)
    with pytest.raises(InputError, match="two classes have the same name"):
        classes.split("three", ["a", "b", "a"], 1, 1)
