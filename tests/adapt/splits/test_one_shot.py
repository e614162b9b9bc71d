from collections import Counter
from itertools import pairwise

import pytest

from adapt.order import digest
from adapt.splits import one_shot
from adapt.splits.ntu import action_code, view_group
from skelcore.errors import InputError
from tests.adapt.splits.names import ntu_names, official

CLASSES_SHA256 = {
    20: "f4b80494b69e3fa7248d5493d9dab93840c16e8d0194a7e1aa4e3f6eb9b128a3",
    40: "5371ec15ba60043a8bbfdd2490e90eb6c71a00b98ccb26c6e00c7780599e7f37",
    60: "9c87c265c43ac02bf3623e8a2abe26d98ceb4d31b7f776c078443661da73e244",
    80: "8c905d073a6eab27ba3aa600d25f2ab01afcc0d22f07991ab72780524262f7dc",
    100: "70f7d884868ad58790e8749bd923a16ee3d6acf0e63565022db89162d38f0ad1",
}
SAMPLES_SHA256 = {
    "support": "e97d5fc7078d64f6cfd8daa38093b981e278d5e26358cf51d115d7d56cd82a9b",
    "base": "9a9b49a483042a7de0b243e0b03a5fdaa47747c2662f3c57c3d02ce849a3470a",
    "validation": "8e6bc6b86151af8c144dd4f9b13a18d340a8857c77c00ce0264c6e0bd9d49bac",
}
QUERY_SHA256 = {False: "9ecd9db27ae4189bd1e63fe164d382396c111de632e4e2056c5e044daf6f8a47",
                True: "049da32a7cc2664a77ed985d2c7841eac88b6d3fab504c0b9663f4ba30f699aa"}
NOVEL = ["A001", "A007", "A013", "A019", "A025", "A031", "A037", "A043", "A049", "A055",
         "A061", "A067", "A073", "A079", "A085", "A091", "A097", "A103", "A109", "A115"]
EXEMPLARS = {*(f"S001C003P008R001{code}" for code in NOVEL[:10]), *(f"S018C003P008R001{code}" for code in NOVEL[10:])}


@pytest.mark.parametrize(("leak_free", "queries"), [(False, 18924), (True, 18884)])
def test_official_counts_and_hashes(leak_free: bool, queries: int) -> None:
    split = one_shot.split(official("ntu120"), leak_free=leak_free)
    assert len(split.parts["query"]) == queries
    assert split.unlike(one_shot.counts(leak_free=leak_free)) is None
    assert split.sha256 == {**SAMPLES_SHA256, "query": QUERY_SHA256[leak_free]}


def test_counts_of_all_auxiliary_sets() -> None:
    samples = Counter(action_code(each) for each in official("ntu120"))
    for auxiliary, count in one_shot.BASE_COUNTS.items():
        assert sum(samples[code] for code in one_shot.auxiliary_classes(auxiliary)) == count
        assert one_shot.counts(auxiliary)["base"] == count


def test_exemplars_are_the_official_ones_by_name() -> None:
    assert set(one_shot.EXEMPLARS) == EXEMPLARS
    split = one_shot.split(ntu_names())
    assert split.parts["support"] == one_shot.EXEMPLARS
    assert [action_code(each) for each in split.parts["support"]] == NOVEL == list(one_shot.NOVEL)


def test_queries_are_all_other_samples_of_the_novel_classes() -> None:
    novel = {each for each in ntu_names() if action_code(each) in NOVEL}
    split = one_shot.split(ntu_names())
    assert set(split.parts["query"]) == novel - EXEMPLARS
    free = one_shot.split(ntu_names(), leak_free=True)
    assert set(free.parts["query"]) == {each for each in novel if "P008" not in each}
    shown = set(map(view_group, split.parts["support"]))
    assert [sum(view_group(name) in shown for name in each.parts["query"]) for each in (split, free)] == [40, 0]


def test_auxiliary_sets_are_nested_published_and_never_novel() -> None:
    sets = {count: set(one_shot.auxiliary_classes(count)) for count in (20, 40, 60, 80, 100)}
    assert [len(each) for each in sets.values()] == [20, 40, 60, 80, 100]
    assert all(small < large for small, large in pairwise(sets.values()))
    assert not any(each & set(NOVEL) for each in sets.values())
    assert {count: digest(each) for count, each in sets.items()} == CLASSES_SHA256
    assert sets[100] - sets[80] == set(one_shot.VALIDATION) == {f"A{action:03d}" for action in range(2, 117, 6)}


@pytest.mark.parametrize("auxiliary", [20, 80, 100])
def test_base_and_validation_hold_their_classes(auxiliary: int) -> None:
    split = one_shot.split(ntu_names(), auxiliary)
    assert {action_code(each) for each in split.parts["base"]} == set(one_shot.auxiliary_classes(auxiliary))
    assert len(split.parts["base"]) == 6 * auxiliary
    assert {action_code(each) for each in split.parts["validation"]} == set(one_shot.VALIDATION)
    assert bool(set(split.parts["base"]) & set(split.parts["validation"])) is (auxiliary == 100)


def test_names_tell_variants_apart() -> None:
    names = {one_shot.split(ntu_names(), count, free).name for count in (20, 100) for free in (False, True)}
    assert len(names) == 4


def test_bad_input() -> None:
    with pytest.raises(InputError, match="the data lack 1 of the 20 exemplars, such as S018C003P008R001A061"):
        one_shot.split([each for each in ntu_names() if each != "S018C003P008R001A061"])
    with pytest.raises(InputError, match="auxiliary=50: choose one of 20, 40, 60, 80, 100"):
        one_shot.split(ntu_names(), 50)
    with pytest.raises(InputError, match="clip-1: an NTU sample is named"):
        one_shot.split(["clip-1"])
