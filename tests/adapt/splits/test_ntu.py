from collections.abc import Callable

import pytest

from adapt.splits import ntu
from adapt.splits.id_lists import read_ids
from skelcore.errors import InputError
from tests.adapt.splits.names import MISSING, PROTOCOLS, ntu_name, ntu_names, official
from tests.paths import need

SHA256 = {
    "ntu60_xsub": ("b1d2e8638615e0895033a908fa63655f061016272cfedca595d5ea530370cc55",
                   "14ff88fb5dfb5799498e468c201089d5b38ac75061e6743900486d6e932f846d"),
    "ntu60_xview": ("de3f3fe3b344d6fc50d107d64f0ac93b7ea82db1aca92725105a9984c2c182bb",
                    "8be206473260bad8fa9dd0d771fa4b13dfd263033aa7d3286be4edb2e9f0fa0f"),
    "ntu120_xsub": ("fa60c99907c6d7ef488c09e5675566c1545516bb4f25a49cd81789be91bb4ba8",
                    "36d65450d16849611e1540bf8bbfa7ff9cdc1e63f74c3b8f13b4efd7f8029370"),
    "ntu120_xset": ("b735ae4564ae5f7cb74ff674206a7645400605286bd49c57c3f085a38729da72",
                    "513d41a81663995de2926b83423b4e763f5e4f248a6ed4228bf1c92924e8f9f9"),
}
IN_TRAINING: dict[str, Callable[[str], bool]] = {  # of ``ntu_names``, where performers 3 and 8 act
    "xsub": lambda name: name[8:12] == "P008",
    "xview": lambda name: name[5:8] in {"002", "003"},
    "xset": lambda name: int(name[1:4]) % 2 == 0,
}


@pytest.mark.parametrize("name", ntu.COUNTS)
def test_official_names_give_the_official_counts(name: str) -> None:
    split = ntu.split(name, official(name.split("_")[0]))
    assert split.unlike(ntu.COUNTS[name]) is None
    assert (split.sha256["train"], split.sha256["test"]) == SHA256[name]
    assert not set(split.parts["train"]) & set(split.parts["test"])


def test_ntu60_is_also_found_within_ntu120() -> None:
    assert ntu.split("ntu60_xsub", official("ntu120")).sha256["test"] == SHA256["ntu60_xsub"][1]


@pytest.mark.parametrize("name", ntu.COUNTS)
def test_each_sample_is_where_the_paper_puts_it(name: str) -> None:
    data, rule = name.split("_")
    split = ntu.split(name, ntu_names())
    for part, train in (("train", True), ("test", False)):
        known = [each for each in ntu_names() if each[-3:] <= f"{ntu.ACTIONS[data]:03d}"]
        assert set(split.parts[part]) == {each for each in known if IN_TRAINING[rule](each) is train}


@pytest.mark.parametrize(("data", "count"), [("ntu60", 302), ("ntu120", 535)])
def test_samples_with_missing_skeletons_are_left_out(data: str, count: int) -> None:
    missing = read_ids(need(PROTOCOLS / data / MISSING[data]))
    assert len(missing) == count and not set(missing) & set(official(data))
    split = ntu.split("ntu60_xview", [*missing, *ntu_names()], missing)
    assert split == ntu.split("ntu60_xview", ntu_names())
    assert split != ntu.split("ntu60_xview", [*missing, *ntu_names()])


def test_other_counts_are_told_with_both_numbers() -> None:
    assert ntu.split("ntu120_xsub", ntu_names()).unlike(ntu.COUNTS["ntu120_xsub"]) == (
        "ntu120_xsub: the data give 360 train (expected 63,026), 360 test (expected 50,919)")


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"ntu60_xset: not an NTU benchmark; known are ntu60_xsub"):
        ntu.split("ntu60_xset", ntu_names())
    with pytest.raises(InputError, match=r"walk_3: an NTU sample is named"):
        ntu.split("ntu60_xsub", [*ntu_names(), "walk_3"])
    with pytest.raises(InputError, match=r"ntu60_xview: the data have no test sample \(cameras 2 and 3 train"):
        ntu.split("ntu60_xview", [each for each in ntu_names() if "C001" not in each])


def test_views_of_one_performance_share_a_group() -> None:
    assert len({ntu.view_group(each) for each in ntu_names()}) * 3 == len(ntu_names())
    first = ntu_name(7, camera=1)
    assert ntu.view_group(f"videos/{first}_rgb") == ntu.view_group(ntu_name(7, camera=3)) == "S001P008R001A007"
    assert ntu.view_group("walk_C001") == "walk_C001"
    assert len({ntu.view_group(ntu_name(7, **{field: 2})) for field in ("performer", "repetition", "setup")}) == 3


def test_action_codes() -> None:
    assert (ntu.action_code(ntu_name(7)), ntu.action_code(ntu_name(120))) == ("A007", "A120")
