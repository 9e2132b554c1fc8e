"""Rules that span keys."""

from pathlib import Path

import pytest

from tests.unit.config.test_load import faults, read

TWO = 'domains = ["a.example", "b.example"]\n'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('domains = ["a b"]', '1: domains[0]: "a b" is not a domain name: '),
        ('domains = ["u@a.example"]', '1: domains[0]: "u@a.example" is an address, not a domain; write a.example'),
        ('domains = ["A.example"]', '1: domains[0]: "A.example" is not in its prepared form; write a.example'),
        ('domains = ["a.example", "a.example"]', '1: domains[1]: "a.example" is named twice'),
        ("domains = []", "1: domains: expected a list of length >= 1"),
        ('admins = ["boss"]', '1: admins[0]: "boss" is not a bare JID like admin@boss'),
        (TWO + '[domain."b.exmple"]\nkey = "x"', '2: domain."b.exmple": not one of domains; did you mean b.example?'),
        ('[tls]\ncertificate = "no.pem"', "2: tls.certificate: cannot read no.pem: No such file or directory"),
        ('[[listener]]\nkind = "c2s"\naddress = "localhost:5222"', "3: listener[0].address: \"localhost:5222\" is not an IP address and port like 127.0.0.1:5222 or [::1]:5222"),
        ('[[listener]]\nkind = "c2s"\naddress = "127.0.0.1:70000"', '3: listener[0].address: "127.0.0.1:70000" is not'),
        ('[[listener]]\nkind = "c2s"\naddress = "::1:5222"', '3: listener[0].address: "::1:5222" is not'),
        ('[[listener]]\nkind = "s2s"\naddress = "127.0.0.1:5269"', '2: listener[0].kind: "s2s" needs a later version; remove this listener'),
        ('[[listener]]\nkind = "cluster"\naddress = "127.0.0.1:5270"', '2: listener[0].kind: "cluster" needs other nodes: set cluster.backend = "etcd" or remove this listener'),
        ('[[listener]]\nkind = "http"\naddress = "127.0.0.1:5280"\ntls = "starttls"', '4: listener[0].tls: "starttls" is for c2s only; use "direct" or "none" for http'),
        ('[[listener]]\nkind = "http"\naddress = "127.0.0.1:5280"\npaths = ["/metric"]', '4: listener[0].paths[0]: nothing is served at "/metric"; did you mean /metrics?'),
        ('[[listener]]\nkind = "c2s"\naddress = "127.0.0.1:5222"\npaths = ["/ws"]', "4: listener[0].paths: is for http only, not for c2s"),
        ('[auth]\nmechanisms = ["SCRAM-SHA256"]', '2: auth.mechanisms[0]: "SCRAM-SHA256" is not a mechanism; did you mean SCRAM-SHA-256?'),
        ('[auth]\nmechanisms = ["EXTERNAL"]', "2: auth.mechanisms: EXTERNAL needs auth.client_ca"),
        ("[auth]\nmechanisms = []", "2: auth.mechanisms: is empty, so nobody can log in; name at least one"),
        ('[storage]\nbackend = "cassandra"\n[storage.cassandra]\ncontact_points = ["a:x"]', '4: storage.cassandra.contact_points[0]: "a:x" is not host:port'),
        ('[storage]\nbackend = "cassandra"\n[storage.cassandra]\ncontact_points = []', "4: storage.cassandra.contact_points: is empty; name some nodes"),
        ('[storage]\nbackend = "cassandra"\n[storage.cassandra]\nuser = "a"', "4: storage.cassandra.user: needs password or password_file beside it"),
        ('[storage]\nbackend = "cassandra"\n[storage.cassandra]\npassword = "a"', "4: storage.cassandra.password: needs the user beside it"),
        ('[modules]\ndisable = ["carbon"]', '2: modules.disable[0]: "carbon" is not a feature; did you mean carbons?'),
        ('[[component]]\ndomain = "g.example"', "1: component[0].secret: is missing; set secret or secret_file"),
        ('[[component]]\ndomain = "localhost"\nsecret = "x"', '2: component[0].domain: "localhost" is in use already'),
    ],
)  # fmt: skip
def test_a_contradiction_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    found = [fault.replace(f"{tmp_path}/", "") for fault in faults(tmp_path, text)]
    assert found[0].startswith(f"antiphon.toml:{line}")


@pytest.mark.parametrize(
    ("first", "second", "is_taken"),
    [
        ("127.0.0.1:5222", "127.0.0.1:5222", True),
        ("0.0.0.0:5222", "127.0.0.1:5222", True),
        ("[::]:5222", "127.0.0.1:5222", True),
        ("127.0.0.1:5222", "127.0.0.2:5222", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("[::1]:5222", "127.0.0.1:5222", False),
    ],
)
def test_two_listeners_cannot_share_an_address(
    tmp_path: Path, first: str, second: str, is_taken: bool
) -> None:
    text = "".join(f'[[listener]]\nkind = "c2s"\naddress = "{a}"\n' for a in (first, second))
    if is_taken:
        assert faults(tmp_path, text) == [
            f"antiphon.toml:6: listener[1].address: {second} is taken by listener[0] ({first})"
        ]
    else:
        read(tmp_path, text)


def test_a_component_without_a_listener_for_it_is_an_error(tmp_path: Path) -> None:
    text = (
        '[[component]]\ndomain = "g.example"\nsecret = "x"\n'
        '[[listener]]\nkind = "c2s"\naddress = "127.0.0.1:5222"\n'
    )
    assert faults(tmp_path, text) == [
        "antiphon.toml:1: component[0]: no listener takes components; "
        'add a [[listener]] with kind = "component"'
    ]


def test_the_default_listeners_take_components_on_loopback(tmp_path: Path) -> None:
    config = read(tmp_path, '[[component]]\ndomain = "g.example"\nsecret = "x"\n').config
    assert config.listeners()[-1].address == "127.0.0.1:5347"


def test_a_certificate_without_its_key_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "c.pem").write_text("x")
    assert faults(tmp_path, '[tls]\ncertificate = "c.pem"\n') == [
        "antiphon.toml:2: tls.certificate: needs its key beside it"
    ]


def test_a_limit_below_the_standards_least_is_a_warning(tmp_path: Path) -> None:
    warnings = read(tmp_path, "[limits]\nstanza_bytes_before_login = 4000\n").warnings
    assert [warning.key for warning in warnings] == ["limits.stanza_bytes_before_login"]


def test_a_listener_on_which_nobody_can_log_in_is_a_warning(tmp_path: Path) -> None:
    text = '[[listener]]\nkind = "c2s"\naddress = "127.0.0.1:5222"\ntls = "none"\n'
    assert [warning.key for warning in read(tmp_path, text).warnings] == ["listener[0].tls"]
    assert read(tmp_path, f"{text}[auth]\nallow_plaintext = true\n").warnings == ()
