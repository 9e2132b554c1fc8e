# SPDX-License-Identifier: Apache-2.0
"""The self-signed certificates of the first start."""

import stat
import time
from pathlib import Path

import pytest

from antiphon.config.core import CoreHost
from antiphon.node import certificate
from antiphon.node.certificate import file_name, with_certificates


class Maker:
    """Stands in for the core: certificates are texts of the form `names end`."""

    def __init__(self) -> None:
        self.made: list[list[str]] = []
        self.end = time.time() + 10 * 365 * 86400

    def self_signed(self, domains: list[str]) -> tuple[str, str]:
        self.made.append(domains)
        return f"{','.join(domains)} {self.end}", "key"

    def names(self, pem: str) -> tuple[list[str], float]:
        listed, _, end = pem.partition(" ")
        return listed.split(","), float(end)


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> Maker:
    made = Maker()
    monkeypatch.setattr(certificate, "self_signed", made.self_signed)
    monkeypatch.setattr(certificate, "certificate_names", made.names)
    return made


BARE = CoreHost(domain="a.example", certificate=None, key=None)


def test_a_domain_without_a_certificate_gets_one_of_its_own(tmp_path: Path, maker: Maker) -> None:
    (host,) = with_certificates([BARE], tmp_path)
    assert host.certificate == str(tmp_path / "tls" / "a.example.pem")
    assert maker.made == [["a.example"]]
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700
    assert stat.S_IMODE(Path(str(host.key)).stat().st_mode) == 0o600


def test_it_is_made_once(tmp_path: Path, maker: Maker) -> None:
    assert with_certificates([BARE], tmp_path) == with_certificates([BARE], tmp_path)
    assert len(maker.made) == 1


def test_it_is_made_anew_before_it_ends(tmp_path: Path, maker: Maker) -> None:
    maker.end = time.time() + 3600
    with_certificates([BARE], tmp_path)
    with_certificates([BARE], tmp_path)
    assert len(maker.made) == 2


def test_a_given_certificate_is_left_alone(tmp_path: Path, maker: Maker) -> None:
    given = CoreHost(domain="a.example", certificate="c.pem", key="k.pem")
    assert with_certificates([given], tmp_path) == (given,)
    assert maker.made == []


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        ("a.example", "a.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("[::1]", "5b3a3a315d"),
    ],
)
def test_any_domain_has_a_file_name(domain: str, name: str) -> None:
    assert file_name(domain) == name
