import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapt.order import digest
from adapt.splits import record
from adapt.splits.record import Split
from skelcore.errors import InputError

IDS = st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=6), unique=True, max_size=8)
SPLITS = st.lists(st.builds(Split, st.text(max_size=5), st.text(max_size=9), st.none() | st.integers(0, 2**63),
                            st.dictionaries(st.text(max_size=5), IDS.map(tuple), max_size=3)), max_size=3)
ONE = Split("clap", "two clips by name", None, {"support": ("clip-1", "clip-2"), "query": ("clip-3",)})


def written(folder: Path, splits: list[Split]) -> Path:
    record.write(folder / "splits.json", splits)
    return folder / "splits.json"


@given(splits=SPLITS)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, splits: list[Split]) -> None:
    assert record.read(written(tmp_path_factory.mktemp("splits"), splits)) == splits


def test_file_is_plain_json_with_a_hash_a_part(tmp_path: Path) -> None:
    content = json.loads(written(tmp_path, [ONE]).read_text())
    assert content == {"schema": 1, "splits": [{"name": "clap", "rule": "two clips by name", "seed": None, "parts": {
        "support": {"sha256": digest(["clip-2", "clip-1"]), "ids": ["clip-1", "clip-2"]},
        "query": {"sha256": digest(["clip-3"]), "ids": ["clip-3"]}}}]}
    assert digest(["clip-2", "clip-1"]) == "c6389098aefa68b11dd1958b1c5d949e623e9c8e27474175bd99ded1400b1123"


@pytest.mark.parametrize(("old", "new"), [("clip-3", "clip-4"), ('["clip-3"]', "[]"), ('["clip-3"]', '["clip-3","x"]')])
def test_changed_ids_are_found(tmp_path: Path, old: str, new: str) -> None:
    path = written(tmp_path, [ONE])
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=r"splits.json: the ids of part 'query' of clap are not those of its sha256"):
        record.read(path)


def test_order_of_ids_is_no_change(tmp_path: Path) -> None:
    path = written(tmp_path, [ONE])
    path.write_text(path.read_text().replace('"clip-1","clip-2"', '"clip-2","clip-1"'))
    assert record.read(path)[0].sha256 == ONE.sha256


@pytest.mark.parametrize(("old", "new", "message"), [
    ('"schema": 1', '"schema": 2', r"schema: .*not a splits.json of schema 1"),
    ('"seed":null', '"seed":"0"', r"splits.0.seed: "),
    ('"ids":["clip-3"]', '"ids":[3]', r"splits.0.parts.query.ids.0: "),
    ('"name":"clap",', "", r"splits.0.name: Field required"),
    ('"name":"clap",', '"name":"clap","k":1,', r"splits.0.k: "),
    ("]}\n", "", r"the file: Invalid JSON"),
    ('["clip-3"]', '["clip-3","clip-3"]', r"clap: 'clip-3' is twice in part 'query'"),
])
def test_other_files_are_refused_by_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = written(tmp_path, [ONE])
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        record.read(path)


def test_absent_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.json: cannot read the splits: No such file"):
        record.read(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\x80\x04")
    with pytest.raises(InputError, match=r"bytes.json: the file: "):
        record.read(tmp_path / "bytes.json")


def test_ids_that_the_data_lack() -> None:
    record.verify(ONE, iter(["clip-3", "clip-2", "clip-1", "clip-0"]))
    with pytest.raises(InputError, match=r"clap: the data lack 1 of the 2 ids of part 'support', such as 'clip-2'"):
        record.verify(ONE, ["clip-1", "clip-3"])


def test_an_id_twice_is_refused() -> None:
    with pytest.raises(InputError, match="clap: 'b' is twice in part 'base'"):
        Split("clap", "", None, {"base": ("a", "b", "b")})


def test_counts_unlike_the_published() -> None:
    assert ONE.unlike({"support": 2, "query": 1}) is None
    assert ONE.unlike({"support": 2, "query": 4000}) == "clap: the data give 1 query (expected 4,000)"
