"""The search for copies at the end of a harvest: when it is done, what it leaves, and what the page shows of it."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from harvest import accounts, copies, duplicates, forget, judged, parts, plan, run, weeding
from harvest.ledger import Entry, Ledger
from harvest.sources import Source
from harvest.video import Outcome
from harvest.workspace import Workspace
from skelcore import browse
from skelcore.gallery import Copy
from tests.browser import opened as page_of
from tests.harvest import fakes
from tests.harvest.twins import GROUPS, SOURCES, config, opened, told
from tests.paths import ROOT


def weed(root, mode):
    def work(space, planned, ledger):
        weeding.weed(space, planned, ledger, mode)
        accounts.settle(space, planned, ledger)

    opened(root, work)


def files(root):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*")
            if path.is_file() and path.name != ".lock"}


def rejected(root):
    return {id[0] for shard in range(4) for id in judged.read(root, shard).rejected}


def test_a_second_search_is_made_only_for_other_files_or_another_mode(folder, monkeypatch):
    weed(folder, "mark")
    assert told(folder) == GROUPS and not rejected(folder)
    before, real, calls = files(folder), duplicates.find, []
    monkeypatch.setattr(duplicates, "find", lambda *words: calls.append(1) or real(*words))
    weed(folder, "mark")
    assert not calls and files(folder) == before
    weed(folder, "drop")
    assert len(calls) == 1 and rejected(folder) == {"c", "e", "f"}
    dropped = files(folder)
    weed(folder, "drop")
    assert len(calls) == 1 and files(folder) == dropped
    # Whoever deletes the list, or what is known of it, gets it again.
    (folder / copies.FILE).unlink()
    weed(folder, "drop")
    assert len(calls) == 2 and told(folder) == GROUPS
    shutil.rmtree(folder / parts.FOLDER)
    weed(folder, "mark")
    assert len(calls) == 3 and rejected(folder) == {"c", "e", "f"}


def test_a_forgotten_original_lets_its_copy_come_back(folder):
    weed(folder, "drop")
    forget.forget(folder, ["a"])
    assert told(folder) == {"f/0000": "c/0000", "e/0000": "b/0000"}
    weed(folder, "drop")
    assert rejected(folder) == {"e", "f"} and told(folder) == {"f/0000": "c/0000", "e/0000": "b/0000"}


def test_a_folder_without_a_track_has_an_empty_list(tmp_path):
    with Workspace(config(tmp_path)) as space:
        planned = plan.update(space.plan, [Source("a", "/a.mp4")], 2)
        with Ledger(space.ledger, planned) as ledger:
            ledger.settle(0, Entry("a", "rejected", "no_person"))
            space.close(0, planned, ledger)
            weeding.weed(space, planned, ledger, "drop")
    assert (tmp_path / copies.FILE).read_bytes() == b""


def test_same_files_of_rejected_sources_are_listed_after_the_tracks(folder):
    names = [*SOURCES, "p", "q", "r", "s"]
    with Workspace(config(folder)) as space:
        planned = plan.update(space.plan, [Source(name, f"/{name}.mp4") for name in names], 2)
        with Ledger(space.ledger, planned) as ledger:
            # As they finish, not as they are planned; of the last an earlier release did not note the file.
            for name, content in (("r", "1" * 64), ("q", "2" * 64), ("p", "1" * 64), ("s", "")):
                index = planned.find(name)
                space.keep(planned[index], Outcome("rejected", "no_person", content=content))
                ledger.settle(index, Entry(name, "rejected", "no_person", content=content))
            for shard in set(range(planned.shards)) - ledger.closed:
                space.close(shard, planned, ledger)
            accounts.settle(space, planned, ledger)
    weed(folder, "drop")
    assert list(browse.copies(folder / copies.FILE))[-1] == Copy(2, "r", "p", 1.0)
    assert told(folder) == {**GROUPS, "r": "p"} and rejected(folder) == {"c", "e", "f"}
    assert json.loads((folder / "summary.json").read_text())["copies"] == 4
    forget.forget(folder, ["p"])
    assert told(folder) == GROUPS


@pytest.mark.slow
def test_the_page_sifts_by_group(folder, tmp_path):
    weed(folder, "drop")
    with page_of(folder / "report.html", tmp_path / "profile") as page:
        def names():
            return sorted(page.see("[...document.querySelectorAll('.card')].map(each => each.title)"))

        def choose(value):
            page.see(f"(() => {{ const s = document.querySelector('[name=copies]'); s.value = '{value}';"
                     "s.dispatchEvent(new Event('change')); })()")

        assert names() == [f"{name}/0000" for name in SOURCES]
        choose("in")
        assert names() == sorted({*GROUPS, *GROUPS.values()})
        choose("first")
        assert names() == sorted({f"{name}/0000" for name in SOURCES} - GROUPS.keys())
        page.click("[name=clear]")
        page.click("[name=verdict][value=kept]")
        assert names() == sorted(GROUPS)
        page.click(".card")
        page.click("[name=group]")
        assert names() in (["a/0000", "c/0000", "f/0000"], ["b/0000", "e/0000"])
        assert page.complaints == []


def harvest(tmp_path, output, *words):
    """The command in a process of its own; what it printed."""
    arguments = [f"sources={tmp_path / 'videos'}", f"output={output}", "estimator=tests.harvest.fakes:Blobs",
                 "gates.min_complete=0", "workers=1", "shard_size=2", *words]
    clean = {key: value for key, value in os.environ.items() if "RAY" not in key}
    done = subprocess.run([sys.executable, str(ROOT / "harvest" / "run.py"), *arguments], timeout=240, check=True,
                          env={**clean, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}, capture_output=True, text=True)
    return arguments, done.stdout


@pytest.mark.slow
def test_a_harvest_lists_or_drops_its_copies(tmp_path):
    videos, marked, dropped, plain = (tmp_path / name for name in ("videos", "marked", "dropped", "plain"))
    videos.mkdir()
    one = fakes.write(videos / "a.mp4", fakes.walk(1.5, seed=9))
    nobody = fakes.write(videos / "nobody.mp4", np.zeros((20, 96, 160, 3), np.uint8))
    shutil.copy(nobody, videos / "nobody_again.mp4")
    harvest(tmp_path, marked)
    harvest(tmp_path, dropped, "duplicates=drop")
    known = {source.address.rpartition("/")[2]: source.id for source in plan.read(marked / "plan.jsonl")}
    assert told(marked) == told(dropped) == {known["nobody_again.mp4"]: known["nobody.mp4"]}
    # A copy comes later, in another shard.
    shutil.copy(one, videos / "z.mp4")
    for output, words in ((marked, ["duplicates=mark"]), (dropped, ["duplicates=drop"]), (plain, ["duplicates=keep"])):
        arguments, _ = harvest(tmp_path, output, *words)
        before = files(output)
        script = ("import sys; from harvest.run import main; "
                  f"code = main({arguments!r}); assert not {{'ray', 'faiss'}} & sys.modules.keys(); sys.exit(code)")
        subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
                       timeout=120)
        assert files(output) == before
    known = {source.address.rpartition("/")[2]: source.id for source in plan.read(marked / "plan.jsonl")}
    wanted = {f"{known['z.mp4']}/0000": f"{known['a.mp4']}/0000", known["nobody_again.mp4"]: known["nobody.mp4"]}
    assert told(marked) == told(dropped) == wanted and not (plain / copies.FILE).exists()
    assert not rejected_rows(marked) and rejected_rows(dropped) == [(known["z.mp4"], "duplicate")]


def rejected_rows(output):
    rows = [json.loads(line) for path in (output / "rejected").glob("*.jsonl") for line in path.open()]
    return [(row["source"], row["reason"]) for row in rows]


def test_bad_modes_are_named(tmp_path, capsys):
    assert run.main([f"output={tmp_path}", "sources=x", "duplicates=delete"]) == 2
    assert "duplicates" in capsys.readouterr().err
