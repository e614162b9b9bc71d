import csv
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvest import attribution
from skelcore.errors import InputError
from tests.harvest import stock


def table(folder):
    with open(folder / attribution.FILE, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def web(key, **more):
    return key, {"url": f"https://example.org/{key}", "licence": "cc by 4.0", "uploader_sha256": "ab" * 32,
                 "extractor": "Youtube", "video": key.upper(), **more}


def test_every_block_has_a_line_in_the_order_of_the_shards(tmp_path):
    stock.shard(tmp_path, 1, [("c", {"file": "c, d.mp4"})])
    stock.shard(tmp_path, 0, [web("b"), web("a", licence=None)])
    attribution.write(tmp_path)
    found = table(tmp_path)
    assert [(row["shard"], row["id"], row["tracks"]) for row in found] == [
        ("000000", "a", "2"), ("000000", "b", "2"), ("000001", "c", "2")]
    assert found[1] == {"id": "b", "url": "https://example.org/b", "licence": "cc by 4.0", "extractor": "Youtube",
                        "uploader_sha256": "ab" * 32, "video": "B", "tracks": "2", "shard": "000000"}
    assert found[0]["licence"] == "" and found[2]["url"] == "c, d.mp4"


def test_an_empty_harvest_has_a_header(tmp_path):
    attribution.write(tmp_path)
    assert (tmp_path / attribution.FILE).read_text() == ",".join(attribution.HEADER) + "\n"


def test_only_what_changed_is_read_and_written_again(tmp_path):
    stock.shard(tmp_path, 0, [web("a")])
    stock.shard(tmp_path, 1, [web("b")])
    attribution.write(tmp_path)
    later = (tmp_path / "attribution").stat().st_mtime_ns + 10**9
    os.utime(tmp_path / attribution.FILE, ns=(later, later))
    for part in (tmp_path / "attribution").iterdir():
        os.utime(part, ns=(later, later))
    attribution.write(tmp_path)
    assert (tmp_path / attribution.FILE).stat().st_mtime_ns == later

    (tmp_path / "attribution" / "000001.csv").write_text("kept\n")
    os.utime(tmp_path / "attribution" / "000001.csv", ns=(later, later))
    stock.shard(tmp_path, 0, [web("a"), web("z")])
    for path in (tmp_path / "shards").glob("000000.*"):
        os.utime(path, ns=(later + 10**9, later + 10**9))
    os.utime(tmp_path / attribution.FILE, ns=(0, 0))
    attribution.write(tmp_path)
    lines = (tmp_path / attribution.FILE).read_text().splitlines()
    assert [line[0] for line in lines[1:3]] == ["a", "z"] and lines[3] == "kept"


def test_a_shard_that_is_gone_takes_its_lines_along(tmp_path):
    stock.shard(tmp_path, 0, [web("a")])
    stock.shard(tmp_path, 1, [web("b")])
    attribution.write(tmp_path)
    for path in (tmp_path / "shards").glob("000000.*"):
        path.unlink()
    attribution.write(tmp_path)
    assert [row["id"] for row in table(tmp_path)] == ["b"]


@pytest.mark.parametrize("evil", ["=cmd|' /C calc'!A0", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r\n=1", " =1", "＝1",
                                  "\u202e=1"])
def test_no_cell_is_a_formula_or_breaks_its_line(tmp_path, evil):
    stock.shard(tmp_path, 0, [web("a", licence=evil, url=evil, video=f'x",\n{evil}')])
    attribution.write(tmp_path)
    row, = table(tmp_path)
    assert row["licence"].startswith("'") and row["url"].startswith("'")
    assert len((tmp_path / attribution.FILE).read_bytes().splitlines()) == 2


@given(st.text(st.characters(codec=None), max_size=30))
def test_any_text_is_one_harmless_cell(text):
    cell = attribution.row("k", {"licence": text}, 1, "0")[2]
    cell.encode()
    assert cell[:1] not in tuple("=+-@") or not cell
    assert cell.isprintable()


def test_a_damaged_shard_is_named(tmp_path):
    stock.shard(tmp_path, 0, [web("a")])
    with open(tmp_path / "shards" / "000000.tar", "ab") as tar:
        tar.write(b"x")
    with pytest.raises(InputError, match=r"000000\.tar"):
        attribution.write(tmp_path)
    assert not (tmp_path / attribution.FILE).exists()
