# SPDX-License-Identifier: Apache-2.0
"""Generated pages are fresh, and links lead somewhere."""

import re
from pathlib import Path

import pytest

from antiphon.cli.docs import pages
from tests.repo.files import ROOT, name, tracked

LINK = re.compile(r"\]\((?!https?:|xmpp:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
PAGES = [path for path in tracked("*.md") if "specs" not in path.parts]


@pytest.mark.parametrize("page", sorted(pages()))
def test_a_generated_page_is_fresh(page: str) -> None:
    assert (ROOT / page).read_text() == pages()[page], f"{page} is stale: run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for target, _anchor in LINK.findall(text):
        assert (page.parent / target).exists(), target


def test_every_target_of_the_makefile_is_described() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (.+)$", text, re.M))
    described = set(re.findall(r"^([a-z0-9-]+):.*## ", text, re.M))
    assert {word for line in phony for word in line.split()} == described


def test_the_readme_names_the_two_commands() -> None:
    text = (ROOT / "README.md").read_text()
    assert "make run" in text
    assert "make test" in text
