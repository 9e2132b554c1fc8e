# SPDX-License-Identifier: Apache-2.0
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from antiphon.xep._docs import BEGIN, END, doap, pages, readme_table, reference, write
from antiphon.xep._registry import registry

ROOT = Path(__file__).parents[3]
DOAP = "{http://usefulinc.com/ns/doap#}"
XMPP = "{https://linkmauve.fr/ns/xmpp-doap#}"


@pytest.mark.parametrize("name", ["README.md", "docs/reference/xeps.md", "doap.xml"])
def test_a_generated_file_is_fresh(name: str) -> None:
    assert (ROOT / name).read_text() == pages(ROOT)[name], f"{name} is stale: run `make docs`"


def test_every_xep_is_in_every_document() -> None:
    numbers = {one.number for one in registry().features if hasattr(one, "version")}  # type: ignore[attr-defined]
    for number in numbers:
        for text in (readme_table(), reference(), doap()):
            assert f"xep-{number:04}.html" in text


def test_the_project_is_described_as_rdf() -> None:
    project = ET.fromstring(doap()).find(f"{DOAP}Project")
    assert project is not None
    supported = project.findall(f"{DOAP}implements/{XMPP}SupportedXep")
    assert {one.findtext(f"{XMPP}status") for one in supported} <= {"complete", "partial"}
    assert all(one.findtext(f"{XMPP}version") for one in supported)


def test_only_stale_files_are_written(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"before\n{BEGIN}\nstale\n{END}\nafter\n")
    assert len(write(tmp_path)) == 3
    assert write(tmp_path) == []
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "stale" not in text


def test_a_readme_without_the_markers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing\n")
    with pytest.raises(SystemExit, match="lacks the lines"):
        write(tmp_path)
