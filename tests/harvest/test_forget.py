"""Sources that must go, from an output folder as a harvest leaves it."""

import os
import subprocess
import sys
from contextlib import suppress

import pytest

from harvest import forget, plan, run
from harvest.ledger import Ledger
from harvest.sources import Source
from harvest.workspace import Workspace
from skelcore import shards
from tests.harvest.test_workspace import config, entry, mixed
from tests.paths import ROOT

FILM, OTHER = "https://films.example/secret-film.mp4", "https://films.example/other.mp4"
NAMED = [Source("film", FILM), Source("start", f"{FILM}#t=0,5"), Source("end", f"{FILM}#t=5,9"), Source("other", OTHER)]


def outcome(index):
    found = mixed(seed=index)
    # What a block says of its source: what must be found nowhere afterwards.
    found.origin.update(url=NAMED[index].address, licence="CC0", uploader_sha256=f"{index}" * 64)
    return found


@pytest.fixture
def output(tmp_path):
    """Four sources in two shards, all of which gave tracks, kept and rejected."""
    with Workspace(config(tmp_path)) as space:
        planned = plan.update(space.plan, NAMED, 2)
        with Ledger(space.ledger, planned) as ledger:
            for index, source in enumerate(planned):
                which = [each.id for each in NAMED].index(source.id)
                space.keep(source, outcome(which))
                ledger.settle(index, entry(source, outcome(which)))
            for shard in range(2):
                space.close(shard, planned, ledger)
    return space.root


def arguments(tmp_path, output):
    listed = tmp_path / "list.csv"
    listed.write_text(f"url,id,start,end\n{FILM},film,,\n{FILM},start,0,5\n{FILM},end,5,9\n{OTHER},other,,\n")
    # Without the next search for copies, which may find others to stand in for what is forgotten.
    return [f"sources={listed}", f"output={output}", "shard_size=2", "duplicates=keep"]


def handed_on(output):
    """All bytes that a user hands on, in one piece."""
    files = [path for folder in ("shards", "rejected") for path in (output / folder).iterdir()]
    return b"".join(path.read_bytes() for path in [*files, output / "ATTRIBUTION.csv", output / "report.html"])


def keys(output):
    return {path: {block.key for block in shards.stream(output / path)} for path in ("shards", "rejected")}


def test_one_source_leaves_every_file_and_stays_out(tmp_path, output, capsys):
    assert run.main(arguments(tmp_path, output)) == 0
    assert b"secret-film.mp4#t=5,9" in handed_on(output) and b"2" * 64 in handed_on(output)
    assert forget.main([str(output), "end"]) == 0
    assert "forgotten: end" in capsys.readouterr().out
    rest = {"film", "start", "other"}
    assert keys(output) == {"shards": rest, "rejected": rest}
    assert b"t=5,9" not in handed_on(output) and b"2" * 64 not in handed_on(output)
    for tar in (output / "shards").glob("*.tar"):
        shards.verify(tar)
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    script = ("import sys; from harvest.run import main; "
              f"code = main({arguments(tmp_path, output)!r}); assert 'ray' not in sys.modules; sys.exit(code)")
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=120,
                          check=True, capture_output=True, text=True)
    assert "4 sources = 3 ok + 0 rejected + 0 failed + 1 forgotten + 0 pending" in done.stdout
    assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}


def test_an_address_stands_for_all_clips_of_the_video(output):
    assert sorted(forget.forget(output, ["HTTPS://films.example:443/secret-film.mp4"])) == ["end", "film", "start"]
    assert keys(output) == {"shards": {"other"}, "rejected": {"other"}}
    # A shard of which nothing is left has no files.
    assert len(list((output / "shards").glob("*.tar"))) == 1


def test_one_clip_goes_alone(output):
    assert forget.forget(output, [f"{FILM}#t=0,5"]) == ["start"]


def test_a_name_that_is_not_there_removes_nothing(output, capsys):
    before = handed = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert forget.main([str(output), "end", "https://films.example/third.mp4"]) == 2
    err = capsys.readouterr().err
    assert "https://films.example/third.mp4: no source of this id" in err and len(err.splitlines()) == 1
    after = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    assert before == handed == after
    assert forget.main([str(output / "shards"), "end"]) == 2
    assert "settings.json: no such file" in capsys.readouterr().err


@pytest.mark.parametrize("completed_by", ["forget", "harvest"])
def test_a_kill_in_between_is_completed(tmp_path, output, monkeypatch, completed_by):
    """At each file that is replaced, by the same command again or by the next harvest."""
    replace = os.replace
    copy = tmp_path / "copy"
    for step in range(30):
        subprocess.run(["cp", "-r", str(output), str(copy)], check=True)
        left = [step]

        def dying(*names, left=left):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            replace(*names)

        died = True
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(os, "replace", dying)
            forget.forget(copy, ["end"])
            died = False
        if completed_by == "forget":
            forget.forget(copy, ["end"])
        else:
            assert run.main(arguments(tmp_path, copy)) == 0
        assert keys(copy) == {name: {"film", "start", "other"} for name in ("shards", "rejected")}
        assert b"t=5,9" not in handed_on(copy)
        subprocess.run(["rm", "-r", str(copy)], check=True)
        if not died:
            assert step > 5
            return
    pytest.fail("not every step was tried")


def test_of_a_shard_that_is_still_open_it_goes_at_once(tmp_path, output):
    """A source of the same shard is to be tried again, so the shard is not written anew for long."""
    planned = plan.read(output / "plan.jsonl")
    other = next(i for i in planned.members(planned[planned.find("end")].shard) if planned[i].id != "end")
    with Workspace(config(tmp_path)), Ledger(output / "ledger.jsonl", planned) as ledger:
        ledger.reopen([other])
    assert forget.forget(output, ["end"]) == ["end"]
    assert keys(output) == {name: {"film", "start", "other"} for name in ("shards", "rejected")}
    with Ledger(output / "ledger.jsonl", planned) as ledger:
        assert planned[other].shard not in ledger.closed and not ledger.is_settled(other)
