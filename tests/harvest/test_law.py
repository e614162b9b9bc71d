"""Licences in their many spellings, and the list of those who opted out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harvest import law
from harvest.config import Law
from harvest.law import Licences, OptOut
from harvest.sources import Source
from skelcore.errors import InputError
from tests.harvest import web


@pytest.mark.parametrize(("declared", "short"), [
    ("https://creativecommons.org/licenses/by/4.0/", "cc by 4.0"),
    ("http://creativecommons.org/licenses/by-nc-nd/3.0/deed.de", "cc by-nc-nd 3.0"),
    ("https://creativecommons.org/publicdomain/zero/1.0/", "cc0"),
    ("https://creativecommons.org/publicdomain/mark/1.0/", "public domain 1.0"),
    ("http://creativecommons.org/licenses/publicdomain/", "public domain"),
    ("CC-BY-SA-4.0", "cc by-sa 4.0"), ("CC BY  4.0", "cc by 4.0"), ("by-nc", "cc by-nc"), ("by", "cc by"),
    ("Creative Commons Attribution license (reuse allowed)", "cc by"), ("Attribution", "cc by"),
    ("Attribution - Non Commercial - Share Alike", "cc by-nc-sa"),
    ("Creative Commons Attribution-NoDerivatives 4.0 International", "cc by-nd 4.0"),
    ("Public Domain Dedication", "cc0"), ("CC0 1.0 Universal", "cc0"),
    ("Standard YouTube License", "standard youtube license"),
])
def test_licences_have_one_short_spelling(declared, short):
    assert law.normal(declared) == short
    assert law.normal(short) == short


@pytest.mark.parametrize(("declared", "taken"), [
    ("Creative Commons Attribution license (reuse allowed)", True), ("by-nc-nd", True), ("CC-BY-4.0", True),
    ("https://creativecommons.org/licenses/by/4.0/", True), ("CC0", True), ("CC0-1.0", True), ("public domain", True),
    ("http://creativecommons.org/publicdomain/zero/1.0/deed.en", True), ("Creative Commons Zero v1.0 Universal", True),
    ("Standard YouTube License", False), ("Unknown", False), ("all rights reserved", False), ("by the author", False),
    ("byte", False), ("", False), (None, False),
])
def test_the_default_takes_open_licences_and_nothing_undeclared(declared, taken):
    assert Licences(Law.model_validate({}).licences).takes(declared) is taken


def test_patterns_can_leave_out_what_they_must_and_any_takes_all():
    strict = Licences(["cc0", "CC BY", "cc-by ?.?", "cc by-sa*"])
    assert [strict.takes(name) for name in ("by", "CC-BY-4.0", "by-sa", "by-nc", "CC BY-ND 4.0")] == [
        True, True, True, False, False]
    assert Licences(["any"]).takes(None) and Licences(["ANY"]).takes("all rights reserved")
    assert not Licences([]).takes("cc0") and not Licences(["*"]).takes(None)


@given(st.text(max_size=80))
def test_any_text_may_be_declared(text):
    assert law.normal(law.normal(text)) is not None and Licences(["cc0"]).takes(text) in (True, False)


LIST = """# those who asked
some-id-123  # because
https://Example.org:443/v/1.mp4#t=3,4

host:Blocked.org
channel:UCabc
"""


def test_the_list_covers_ids_urls_with_their_clips_hosts_and_channels():
    out = OptOut(LIST.split("\n"))
    listed = ["https://example.org/v/1.mp4", "https://example.org/v/1.mp4#t=9", "https://blocked.org/x",
              "http://user@sub.blocked.org:8080/y"]
    assert all(out.covers(Source("a", address)) for address in listed)
    assert out.covers(Source("some-id-123", "/data/v.mp4"))
    assert not any(out.covers(Source("a", address)) for address in (
        "https://example.org/v/2.mp4", "https://notblocked.org/x", "/data/v.mp4", "http://[bad"))
    assert out.covers_person(["x", None, "UCabc"]) and not out.covers_person([None, "ucabc"])
    assert out.covers_video("some-id-123") and not OptOut().covers(Source("a", "https://example.org/"))


@pytest.mark.parametrize("line", ["two words", "host:", "channel: UCabc"])
def test_a_line_that_means_nothing_is_named(tmp_path, line):
    path = tmp_path / "out.txt"
    path.write_text(f"fine\n{line}\n")
    with pytest.raises(InputError, match=r"out\.txt, line 2: .*channel:ID"):
        OptOut.read(str(path))


def test_the_list_must_be_there(tmp_path):
    with pytest.raises(InputError, match=r"law\.opt_out: cannot read"):
        OptOut.read(str(tmp_path / "none.txt"))
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"law\.opt_out: cannot read"):
        OptOut.read(str(tmp_path / "bytes.txt"))


def test_the_list_of_the_sources_counts_more_than_the_site():
    config = web.config(law={"licences": ["cc0"]})
    assert law.Permit(Source("a", "https://example.org/", {"licence": "CC0"}), config).licence("ARR") == "CC0"
    assert law.Permit(Source("a", "https://example.org/"), config).licence("cc0") == "cc0"
