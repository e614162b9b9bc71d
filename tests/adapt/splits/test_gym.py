import re
from pathlib import Path

import pytest

from adapt.order import digest
from adapt.splits import gym
from adapt.splits.id_lists import read_ids
from skelcore.errors import InputError
from tests.adapt.splits.names import PROTOCOLS
from tests.paths import need

LISTS = PROTOCOLS / "finegym99_lowshot"
NUMBERS = [str(number) for number in range(99)]


def test_class_split_is_the_published_one() -> None:
    split = gym.class_split(99)
    assert [len(split.parts[part]) for part in ("base", "validation", "novel")] == [63, 12, 24]
    assert sorted(each for part in split.parts.values() for each in part) == sorted(NUMBERS)
    assert split.parts["validation"][:3] == ("10", "19", "32")
    assert split.sha256 == {"base": "e23aa48b66597c96d5c0ef33f9423d1bf053a59710644f3836555f2470a5bf1b",
                            "validation": "2f6edf64a6a5372da7c4caba7199d7bb5f1bfce02fefe69e5d259ccf56d2eb3d",
                            "novel": "7038c601b92f6d42f231bd514fc40563232283e2e8e1e385d583fcb0210bc0f9"}


def test_two_classes_share_a_name_so_that_numbers_tell_them_apart() -> None:
    names = need(PROTOCOLS / "label_map_gym99.txt").read_text().splitlines()
    assert len(names) == 99 and len(set(names)) == 98


@pytest.mark.parametrize(("k", "count"), [(4, 396), (8, 792), (16, 1584), (32, 3168), (64, 6265), (128, 11077)])
def test_published_low_shot_lists(k: int, count: int) -> None:
    ids = read_ids(need(LISTS / f"train_{k}_7.ids.txt"))
    assert len(ids) == count
    assert all(re.fullmatch(r".{11}_E_\d{6}_\d{6}_A_\d{4}_\d{4}", each) for each in ids)


def test_rare_classes_are_remarked_on() -> None:
    counts = {"salto": 3, "leap": 40, "turn": 10}
    assert gym.remark(counts, 10) == "1 of 3 classes have fewer than 10 clips and give all they have"
    assert gym.remark(counts, 3) is None


def test_other_data_are_refused() -> None:
    with pytest.raises(InputError, match="gym99: the class split is one of 99 classes, the data have 288"):
        gym.class_split(288)


def test_id_list_as_people_write_it(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbfclip-1\r\n\r\n  clip-2 \r\nclip-\xc3\xbc")
    assert read_ids(path) == ["clip-1", "clip-2", "clip-ü"]
    assert digest(read_ids(path)) == digest(["clip-ü", "clip-2", "clip-1"])


@pytest.mark.parametrize(("content", "message"), [
    (b"a\nb\n\na\n", r"ids.txt:4: 'a' was on line 1 already"),
    (b"a\nb c\n", r"ids.txt:2: 'b c' is not one id"),
    (b"a\n\x80\x04\x95\n", r"ids.txt:2: not UTF-8 text"),
    (b"a\x00b\n", r"ids.txt:1: 'a\\x00b' is not one id"),
    (b" \n\n", r"ids.txt: the list has no id"),
])
def test_bad_id_lists_are_refused_by_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "ids.txt").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_ids(tmp_path / "ids.txt")


def test_absent_id_list(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.txt: cannot read the id list: No such file"):
        read_ids(tmp_path / "none.txt")
