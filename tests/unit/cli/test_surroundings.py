# SPDX-License-Identifier: Apache-2.0
"""What `check` sees outside the configuration."""

import socket
import sqlite3
from pathlib import Path

import pytest

from antiphon.cli import surroundings
from antiphon.config.schema import Config, Listener, Tls


def config(tmp_path: Path, **more: object) -> Config:
    return Config(data_dir=str(tmp_path / "data"), **more)  # type: ignore[arg-type]


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        listener = Listener(kind="c2s", address=address)
        found = list(surroundings.ports(config(tmp_path, listener=(listener,))))
    assert found == [
        (
            ("listener", 0, "address"),
            f"cannot listen on {address}: another program has this port; stop it or choose another",
            False,
        )
    ]


def test_a_free_port_is_no_problem(tmp_path: Path) -> None:
    listener = Listener(kind="c2s", address="127.0.0.1:0")
    assert list(surroundings.ports(config(tmp_path, listener=(listener,)))) == []


def test_an_address_of_another_machine_is_named(tmp_path: Path) -> None:
    listener = Listener(kind="c2s", address="192.0.2.1:5222")
    ((_path, text, _is_warning),) = surroundings.ports(config(tmp_path, listener=(listener,)))
    assert text.endswith("this machine has no such address")


@pytest.mark.parametrize(
    ("name", "domain", "fits"),
    [
        ("chat.example", "chat.example", True),
        ("CHAT.example", "chat.example", True),
        ("*.example", "chat.example", True),
        ("*.example", "a.chat.example", False),
        ("*.example", "example", False),
        ("xn--bcher-kva.example", "bücher.example", True),
        ("other.example", "chat.example", False),
    ],
)
def test_a_certificate_names_a_domain_as_clients_see_it(name: str, domain: str, fits: bool) -> None:
    assert surroundings.matches(name, domain) is fits


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    file = tmp_path / "c.pem"
    file.write_text("nonsense")
    tls = Tls(certificate=str(file), key=str(file))
    ((path, text, _is_warning),) = surroundings.certificates(config(tmp_path, tls=tls))
    assert path == ("tls", "certificate")
    assert "is not a certificate" in text


def test_a_folder_that_others_can_read_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data").chmod(0o755)
    ((path, text, is_warning),) = surroundings.directory(config(tmp_path))
    assert (path, is_warning) == (("data_dir",), True)
    assert "chmod o-rwx" in text


def test_a_data_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("x")
    ((_path, text, is_warning),) = surroundings.directory(config(tmp_path))
    assert text.endswith("is not a folder")
    assert not is_warning


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "antiphon.db").write_bytes(b"not a database at all" * 100)
    ((_path, text, _is_warning),) = surroundings.store(config(tmp_path))
    assert "cannot be opened" in text


def test_a_database_that_another_program_holds_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    base = sqlite3.connect(tmp_path / "data" / "antiphon.db")
    base.execute("CREATE TABLE t (x)")
    base.execute("BEGIN EXCLUSIVE")
    ((_path, text, _is_warning),) = surroundings.store(config(tmp_path))
    base.close()
    assert "is in use by another program" in text


def test_a_sound_database_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    base = sqlite3.connect(tmp_path / "data" / "antiphon.db")
    base.execute("CREATE TABLE t (x)")
    base.close()
    assert list(surroundings.store(config(tmp_path))) == []


def test_names_that_are_for_this_machine_need_no_dns(tmp_path: Path) -> None:
    assert list(surroundings.names(config(tmp_path, domains=("localhost", "a.example")))) == []
