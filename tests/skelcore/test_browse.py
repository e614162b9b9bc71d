import base64
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from skelcore import browse, gallery, layouts, mannequin, shards, thumbs
from skelcore.draw import unit_view
from skelcore.errors import InputError
from skelcore.sequence import PoseSequence
from skelcore.shards import Block
from tests import browser
from tests.paths import ROOT

# What runs if any of it is taken for markup.
EVIL = "</script><script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">\u202e'\"&<!--"


def track(number, seconds=1.0, fps=15.0):
    action = mannequin.ACTIONS[number % len(mannequin.ACTIONS)]
    sequence = mannequin.perform(action, number, number, seconds=seconds, fps=fps).sequence()
    return replace(sequence, meta={"start": 2.5 * number}, label=None)


def block(key, numbers, reasons=(), **source):
    """A video of tracks with these numbers; ``score`` is 0.1 of the number, ``odd`` is there for odd ones."""
    quality = [{"track": n, "score": n / 10, "seconds": 1.0 + n} | ({"odd": -n} if n % 2 else {}) for n in numbers]
    for each, reason in zip(quality, reasons, strict=False):
        each["reason"] = reason
    return Block(key, [track(n) for n in numbers], quality, source, {"made": "here"})


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """A harvest's output folder: 6 kept and 3 rejected tracks of 3 videos, of which one is in both places."""
    folder = tmp_path_factory.mktemp("browse") / "out"
    shards.write(folder / "shards" / "000000.tar", [
        block("a1", [0, 2, 5], url="https://me:secret@host.example/one.mp4", label="wave", split="train"),
        block("a11", [0, 1], url="https://host.example/two.mp4", label=EVIL, licence="CC0")])
    shards.write(folder / "shards" / "000001.tar", [block("b", [3], label="bow")])
    shards.write(folder / "rejected" / "000000.tar", [block("a1", [1, 3], ["small", EVIL], label="wave"),
                                                      block("c", [7], ["small"], file="gone.mp4")])
    rows = [{"group": 0, "id": "a11/0001", "of": "a1/0002", "score": 0.9},
            {"group": 0, "id": "c/0007", "of": "a1/0002", "score": 0.95},
            {"group": 4, "id": "b/0003", "of": "elsewhere/0000", "score": 1.0}]
    (folder / "duplicates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def made(output, path, **most):
    browse.write(str(output), path, **most)
    text = path.read_text("utf-8")
    return text, json.loads(re.search(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)[1])


def array(text, kind):
    return np.frombuffer(base64.b64decode(text), kind)


def test_the_page_holds_what_the_stores_hold(output, tmp_path):
    text, data = made(output, tmp_path / "page.html")
    kept, rejected = shards.read(output), shards.read(output / "rejected")
    assert (data["tracks"], data["total"]) == (9, 9)
    ids = [f"{data['keys'][b]}/{n:04d}" for b, n in zip(array(data["block"], "<u4"), array(data["number"], "<u4"),
                                                         strict=True)]
    assert ids == [*kept.ids, *rejected.ids]
    numbers = {each["name"]: array(each["values"], "<f4") for each in data["numbers"]}
    assert set(numbers) == {"score", "seconds", "odd", "start"}
    for name in ("score", "seconds", "odd"):
        np.testing.assert_array_equal(numbers[name], np.concatenate([kept.quality[name], rejected.quality[name]]))
    np.testing.assert_array_equal(numbers["start"], np.concatenate([kept.start, rejected.start]).astype("f4"))
    np.testing.assert_array_equal(array(data["frames"], "<u4"), np.concatenate([kept.frames, rejected.frames]))
    told = [data["verdicts"][code] for code in array(data["verdict"], "<u2")]
    assert told == ["kept"] * 6 + ["small", EVIL.replace("\u202e", " "), "small"]
    assert array(data["group"], "<i4").tolist() == [-1, 0, -1, -1, 0, 4, -1, -1, 0]
    assert array(data["original"], "<i4").tolist() == [-1, -1, -1, -1, 1, -1, -1, -1, 1]
    label = next(source for source in data["sources"] if source["name"] == "label")
    assert [label["words"][code] for code in array(label["codes"], "<u4")][:3] == [
        "wave", EVIL.replace("\u202e", " "), "bow"]
    assert "secret" not in text and str(tmp_path) not in text


def test_poses_are_the_first_seconds_of_the_tracks():
    long = track(3, seconds=9.0, fps=30.0)
    scores = np.random.default_rng(0).uniform(size=long.scores.shape)
    long = replace(long, scores=np.where(scores < 0.2, 0, scores))
    two = PoseSequence(np.concatenate([long.keypoints] * 2), np.concatenate([long.scores] * 2), long.layout)
    found = thumbs.pack([track(1), two], 17)
    assert found.frames.tolist() == [8, 30] and found.persons.tolist() == [1, 2] and found.fps.tolist() == [7.5, 7.5]
    xy, scores = found.xy[8:].reshape(30, 2, 17, 2), found.scores[8:].reshape(30, 2, 17)
    for frame in range(30):
        for person in range(2):
            seen = two.scores[person, 2 * frame] > 0
            np.testing.assert_allclose(scores[frame, person] / 255, two.scores[person, 2 * frame], atol=0.002)
            assert (xy[frame, person][~seen] == thumbs.MISSING).all()
            expected = np.clip(unit_view(two)[person, 2 * frame][seen], 0, 1)
            np.testing.assert_allclose(xy[frame, person][seen] / thumbs.GRID, expected, atol=0.0002)
    assert len(thumbs.pack([], 17).xy) == 0


def test_a_sample_has_some_of_every_stratum():
    strata = np.repeat([0, 1, 3], [9000, 400, 3])
    chosen = thumbs.sample(np.random.default_rng(0).permutation(strata), 120)
    assert len(chosen) == 120 == len(set(chosen.tolist())) and (np.diff(chosen) > 0).all()
    shares = np.bincount(strata[thumbs.sample(strata, 120)], minlength=4)
    assert shares.sum() == 120 and shares[3] >= 1 and shares[2] == 0 and 15 <= shares[1] <= 30
    assert thumbs.sample(strata, 10**6).tolist() == list(range(9403))
    assert thumbs.sample(np.zeros(0, int), 5).tolist() == []
    spread = thumbs.sample(np.zeros(1000, int), 10)
    assert spread[0] == 0 and spread[-1] == 999 and np.ptp(np.diff(spread)) <= 1


def test_too_many_tracks_are_spread_and_counted(output, tmp_path):
    _, data = made(output, tmp_path / "page.html", most_tracks=4, most_poses=2)
    assert (data["tracks"], data["total"], len(array(data["poses"]["tracks"], "<u4"))) == (4, 9, 2)


def test_any_shard_set_has_a_page(output, tmp_path, capsys):
    for number, (uri, count) in enumerate([
            (output, 9), (output / "shards", 6), (output / "shards" / "000001.tar", 1),
            (output / "*" / "000000.tar", 0), (output / "rejected", 3), (output / "shards" / "*.tar", 6)]):
        page = tmp_path / f"{number}.html"
        if count:
            assert browse.main([str(uri), "--output", str(page)]) == 0
            assert capsys.readouterr().out.startswith(f"{count} of {count} tracks, {count} with poses, ")
        else:  # one key in two shards
            assert browse.main([str(uri), "--output", str(page)]) == 2
            assert "key 'a1' is also in" in capsys.readouterr().err and not page.exists()


@pytest.mark.parametrize("words, told", [
    (["nowhere"], "no pose shard"), ([], "SHARDS"), (["OUT", "--poses", "0"], "--poses"),
    (["OUT", "--tracks", "many"], "--tracks")])
def test_bad_words_are_refused_in_one_line(output, tmp_path, capsys, words, told):
    words = [str(output) if word == "OUT" else word for word in words]
    assert browse.main([*words, "--output", str(tmp_path / "page.html")]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1 and not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("line", [
    "{", "[]", '{"group": 1, "id": "a"}', '{"group": "x", "id": "a", "of": "b", "score": 1}'])
def test_a_damaged_list_of_copies_is_named(tmp_path, line):
    (tmp_path / "duplicates.jsonl").write_text('{"group": 1, "id": "a", "of": "b", "score": 1}\n' + line + "\n")
    with pytest.raises(InputError, match=r"duplicates\.jsonl, line 2"):
        list(browse.copies(tmp_path / "duplicates.jsonl"))


def test_sets_in_two_layouts_are_refused(tmp_path):
    shards.write(tmp_path / "a.tar", [block("a", [0])])
    other = replace(track(0).to_layout(layouts.get("penn13")), label=None)
    shards.write(tmp_path / "b.tar", [Block("b", [other], [{}], {}, {})])
    with pytest.raises(InputError, match="layout penn13, but others have coco17"):
        gallery.gather([shards.read(tmp_path / "a.tar"), shards.read(tmp_path / "b.tar")])


def test_many_reasons_become_others(tmp_path):
    numbers = list(range(60))
    shards.write(tmp_path / "a.tar", [block("a", numbers, [f"r{n}" for n in numbers])])
    found = gallery.gather([shards.read(tmp_path)])
    assert len(found.verdicts) == 42 and found.verdicts[-1] == "other" and (found.verdict == 41).sum() == 20


def test_style_and_behaviour_are_installed_with_the_package():
    assert 'skelcore = ["gallery.css", "gallery.js"]' in (ROOT / "pyproject.toml").read_text()
    done = subprocess.run([sys.executable, "-m", "skelcore.cli", "browse", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "SHARDS" in done.stdout


def counter(page):
    return page.see("document.querySelector('.counter').textContent")


def names(page):
    return page.see("[...document.querySelectorAll('.card')].map(each => each.title)")


@pytest.mark.slow
def test_a_reader_sifts_sorts_and_looks_closer(output, tmp_path):
    made(output, tmp_path / "page.html", most_poses=6)
    with browser.opened(tmp_path / "page.html", tmp_path / "profile", dark=True) as page:
        assert counter(page) == "9 of 9 tracks" and len(names(page)) == 9
        page.wait("[...document.querySelectorAll('.card canvas')].filter(each => each.width !== 300).length === 6")
        assert page.see("document.querySelectorAll('.card .blank').length") == 3
        # Source, by the keyboard.
        page.write("[name=text]", "host.example ONE.mp4")
        assert counter(page) == "3 of 9 tracks"
        page.write("[name=text]", "a1/0002")
        assert names(page) == ["a1/0002"]
        page.write("[name=text]", "pwned")
        assert sorted(names(page)) == ["a11/0000", "a11/0001"]
        page.write("[name=text]", "nowhere at all")
        assert counter(page) == "0 of 9 tracks" and not page.see("document.querySelector('.nothing').hidden")
        page.click("[name=clear]")
        assert counter(page) == "9 of 9 tracks"
        # Gates.
        page.click("[name=verdict][value=kept]")
        assert sorted(names(page)) == ["a1/0001", "a1/0003", "c/0007"]
        page.click("[name=verdict][value=small]")
        assert names(page) == ["a1/0003"]
        page.click("[name=clear]")
        # Numbers; a track without the number does not pass.
        page.write("[name='score.least']", "0.2")
        page.write("[name='score.most']", "0.3")
        assert sorted(names(page)) == ["a1/0002", "a1/0003", "b/0003"]
        page.write("[name='odd.most']", "0")
        assert sorted(names(page)) == ["a1/0003", "b/0003"]
        page.click("[name=clear]")
        middle = page.place(".number:has([name='score.least']) svg", 0.5)
        page.drag(middle, (middle[0] + 300, middle[1]))  # from the middle of 0 to 0.7 to beyond the right end
        assert 0.32 < float(page.see("document.querySelector(\"[name='score.least']\").value")) < 0.38
        assert page.see("document.querySelector(\"[name='score.most']\").value") == ""
        assert sorted(names(page)) == ["a1/0005", "c/0007"]
        page.click("[name=clear]")
        # Order: the number that is missing stays last both ways.
        page.see("(() => { const s = document.querySelector('[name=sort]'); s.value = 'odd';"
                 "s.dispatchEvent(new Event('change')); })()")
        rising = names(page)
        assert rising[:6] == ["c/0007", "a1/0005", "b/0003", "a1/0003", "a11/0001", "a1/0001"]
        page.click("[name=falling]")
        assert names(page)[:6] == rising[:6][::-1] and names(page)[6:] == rising[6:]
        assert sorted(rising[6:]) == ["a1/0000", "a1/0002", "a11/0000"]
        # Copies, and one track from close by.
        page.write("[name=text]", "a11/0001")
        page.click(".card")
        assert page.see("document.querySelector('dialog').open")
        detail = page.see("document.querySelector('dialog').textContent")
        for told in ("copy of a1/0002 (likeness 0.9)", "CC0", "https://host.example/two.mp4"):
            assert told in detail
        page.click("[name=group]")
        assert sorted(names(page)) == ["a1/0002", "a11/0001", "c/0007"]
        page.wait("document.activeElement === document.querySelector('.card')", 5)
        # The keyboard alone: to the next track, and back to the card that was opened last.
        page.press("ArrowRight", 39)
        assert page.see("document.activeElement.title") == names(page)[1]
        page.click(".card")
        page.press("ArrowRight", 39)
        page.press("Escape", 27)
        page.wait(f"document.activeElement.title === {json.dumps(names(page)[1])}", 5)
        assert not page.see("document.querySelector('dialog').open")
        # Hostile texts did nothing, and the page asked for nothing.
        assert page.see("document.title") == "Tracks of out"
        assert page.see("document.querySelectorAll('img').length") == 0
        assert page.complaints == [] and page.requests == [(tmp_path / "page.html").as_uri()]


@pytest.mark.slow
def test_the_scrubber_shows_the_moment_and_pages_turn(tmp_path):
    shards.write(tmp_path / "a.tar", [block("a", list(range(60)))])
    browse.write(str(tmp_path / "a.tar"), tmp_path / "page.html")
    with browser.opened(tmp_path / "page.html", tmp_path / "profile") as page:
        assert len(names(page)) == 48 and page.see("document.querySelector('[name=back]').disabled")
        page.click("[name=on]")
        assert names(page) == [f"a/{n:04d}" for n in range(48, 60)]
        page.click(".card")
        page.wait("document.querySelector('dialog canvas').width > 300")
        page.click("[name=scrubber]")
        page.wait("document.querySelector('[name=toggle]').textContent === 'play'")
        drawn = "document.querySelector('dialog canvas').toDataURL()"
        first = page.see(drawn)
        page.see("new Promise(done => setTimeout(done, 300))")
        assert page.see(drawn) == first
        page.click("[name=toggle]")
        page.wait(f"{drawn} !== {json.dumps(first)}")
        assert page.complaints == []
