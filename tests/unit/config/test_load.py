"""What the loader makes of a file, and what it says of a bad one."""

from pathlib import Path

import pytest

from antiphon.config.load import Loaded, load
from antiphon.config.problem import ConfigProblems
from tests.unit.config.features import OPTIONS, Push, Register


def read(folder: Path, text: str, variables: dict[str, str] | None = None) -> Loaded:
    file = folder / "antiphon.toml"
    file.write_text(text)
    return load(str(file), OPTIONS, variables)


def faults(folder: Path, text: str, variables: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigProblems) as caught:
        read(folder, text, variables)
    lines = [str(problem) for problem in caught.value.problems]
    assert all("\n" not in line for line in lines)
    return [line.replace(f"{folder}/", "") for line in lines]


def test_without_a_file_the_embedded_defaults_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load(None, OPTIONS, {})
    assert loaded.config.domains == ("localhost",)
    assert loaded.config.data_dir == "data"
    assert loaded.warnings == ()
    addresses = [listener.address for listener in loaded.config.listeners()]
    assert addresses == ["127.0.0.1:5222", "127.0.0.1:5223", "127.0.0.1:5280", "127.0.0.1:5281"]


def test_the_file_of_the_working_directory_is_read_when_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("antiphon.toml").write_text('domains = ["here.example"]')
    assert load(None, OPTIONS, {}).config.domains == ("here.example",)


def test_a_named_file_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ConfigProblems, match=r"^/nowhere/a\.toml: cannot be read: No such file"):
        load("/nowhere/a.toml", OPTIONS, {})


def test_the_limits_have_the_promised_defaults(tmp_path: Path) -> None:
    limits = read(tmp_path, "").config.limits
    promised = {
        "connections_per_address": 200,
        "stanza_bytes": 262144,
        "stanza_bytes_before_login": 10000,
        "stanza_depth": 64,
        "stanza_elements": 25000,
        "login_seconds": 30,
        "auth_attempts": 5,
        "auth_failures_per_minute": 60,
        "sessions_per_user": 20,
        "roster_items": 2000,
        "blocked_items": 1000,
        "offline_messages": 1000,
        "sm_queue_stanzas": 1000,
        "sm_resume_seconds": 600,
        "stanzas_per_second": 200,
        "bytes_per_second": 262144,
        "registrations_per_hour": 10,
    }
    assert {name: getattr(limits, name) for name in promised} == promised


def test_every_section_that_is_promised_is_known(tmp_path: Path) -> None:
    for name in ("c.pem", "k.pem", "ca.pem"):
        (tmp_path / name).write_text("x")
    (tmp_path / "gateway.secret").write_text("hush\n")
    loaded = read(
        tmp_path,
        """
        domains = ["chat.example", "other.example"]
        admins = ["admin@chat.example"]
        data_dir = "data"
        [node]
        name = "a"
        [tls]
        certificate = "c.pem"
        key = "k.pem"
        [domain."other.example"]
        certificate = "ca.pem"
        key = "k.pem"
        admins = ["boss@other.example"]
        [[listener]]
        kind = "c2s"
        address = "127.0.0.1:5222"
        tls = "starttls"
        [[listener]]
        kind = "component"
        address = "127.0.0.1:5347"
        [auth]
        mechanisms = ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"]
        scram_iterations = 10000
        client_ca = "ca.pem"
        allow_plaintext = false
        [storage]
        backend = "sqlite"
        [storage.cassandra]
        contact_points = ["127.0.0.1:9042"]
        keyspace = "antiphon"
        [cluster]
        backend = "local"
        [cluster.etcd]
        endpoints = ["127.0.0.1:2379"]
        prefix = "/antiphon"
        [cluster.tls]
        ca = "cluster-ca.pem"
        certificate = "node.pem"
        key = "node.key"
        [archive]
        enabled = true
        [[component]]
        domain = "gateway.chat.example"
        secret_file = "gateway.secret"
        [modules]
        disable = []
        [limits]
        stanza_bytes = 300000
        """,
    )
    config = loaded.config
    assert config.component[0].secret == "hush"
    assert config.data_dir == str(tmp_path / "data")
    assert config.host("chat.example").certificate == str(tmp_path / "c.pem")
    other = config.host("other.example")
    assert other.certificate == str(tmp_path / "ca.pem")
    assert [str(admin) for admin in other.admins] == ["boss@other.example"]
    assert loaded.warnings == ()


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_valid_key(tmp_path: Path) -> None:
    text = '# a\ndomains = ["x.example"]\n[limits]\nlogin_seconds = 3\nstanza_byte = 5\n'
    assert faults(tmp_path, text) == [
        "antiphon.toml:5: limits.stanza_byte: unknown key; did you mean stanza_bytes?"
    ]


def test_a_key_in_the_wrong_table_points_to_the_right_one(tmp_path: Path) -> None:
    assert faults(tmp_path, "stanza_bytes = 20000\n") == [
        "antiphon.toml:1: stanza_bytes: unknown key; did you mean limits.stanza_bytes?"
    ]


def test_a_key_that_resembles_nothing_lists_what_is_valid(tmp_path: Path) -> None:
    assert faults(tmp_path, "[tls]\nzzz = 1\n") == [
        "antiphon.toml:2: tls.zzz: unknown key; valid here: certificate or key"
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[limits]\nroster_items = "many"', "2: limits.roster_items: expected a whole number, got a string"),
        ("[limits]\nroster_items = -1", "2: limits.roster_items: expected a whole number >= 0"),
        ("[limits]\nroster_items = true", "2: limits.roster_items: expected a whole number, got true or false"),
        ("[auth]\nallow_plaintext = 1", "2: auth.allow_plaintext: expected true or false, got a whole number"),
        ('domains = "x"', "1: domains: expected a list, got a string"),
        ("domains = [3]", "1: domains[0]: expected a string, got a whole number"),
        ("tls = 3", "1: tls: expected a table, got a whole number"),
        ("[component]\ndomain = 'x'", "1: component: expected tables, written [[component]], got a table"),
        ('[node]\nname = "a b"', "2: node.name: expected letters, digits, - and _, at most 63"),
        ('[storage]\nbackend = "sqlit"', '2: storage.backend: "sqlit" is not sqlite or cassandra; did you mean sqlite?'),
        ("[[listener]]\nkind = 'c2s'", "1: listener[0].address: is missing; this table needs it"),
        ("[modules.push]\nmax_devices = 0", "2: modules.push.max_devices: expected a whole number >= 1"),
        ("[modules.push]\ntitle = 'forbidden'", "1: modules.push: the title is forbidden"),
        ("[modules.psh]\nx = 1", "1: modules.psh: unknown key; did you mean push?"),
        ('[http]\nwebsocket_url = "http://x"', "2: http.websocket_url: expected an address that begins with wss://"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_one_line_that_says_what_is_expected(
    tmp_path: Path, text: str, line: str
) -> None:
    assert faults(tmp_path, text) == [f"antiphon.toml:{line}"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a = [", "1: not valid TOML: invalid value"),
        ("[tls]\n[tls]\n", "2: not valid TOML: cannot declare ('tls',) twice"),
        ("data_dir = 'a'\ndata_dir = 'b'\n", "2: not valid TOML: cannot overwrite a value"),
        ("= 3", "1: not valid TOML: invalid statement"),
    ],
)
def test_text_that_is_not_toml_is_one_line(tmp_path: Path, text: str, line: str) -> None:
    assert faults(tmp_path, text) == [f"antiphon.toml:{line}"]


def test_bytes_that_are_not_utf_8_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "antiphon.toml"
    file.write_bytes(b"domains = ['\xff']")
    with pytest.raises(ConfigProblems, match=r"antiphon\.toml: is not UTF-8 text$"):
        load(str(file), OPTIONS, {})


def test_all_mistakes_come_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = faults(tmp_path, "[limits]\nx_items = 1\nroster_items = ''\n[tls]\ncertificat = 'a'\n")
    assert [line.split(":")[1] for line in found] == ["2", "3", "5"]


def test_the_environment_stands_above_the_file(tmp_path: Path) -> None:
    loaded = read(
        tmp_path,
        '[limits]\nroster_items = 5\n[[component]]\ndomain = "g.x.example"\n',
        {
            "ANTIPHON_LIMITS_ROSTER_ITEMS": "7",
            "ANTIPHON_DOMAINS": "x.example, y.example",
            "ANTIPHON_AUTH_ALLOW_PLAINTEXT": "true",
            "ANTIPHON_COMPONENT_0_SECRET": "hush",
            "ANTIPHON_MODULES_PUSH_MAX_DEVICES": "3",
            "ANTIPHON_MODULES_IN_BAND_ENABLED": "true",
            "HOME": "/",
        },
    )
    config = loaded.config
    assert config.limits.roster_items == 7
    assert config.domains == ("x.example", "y.example")
    assert config.auth.allow_plaintext
    assert config.component[0].secret == "hush"
    assert config.host("x.example").options("push", Push).max_devices == 3
    assert config.host("x.example").options("in-band", Register).enabled


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    variables = {"ANTIPHON_LIMITS_ROSTER_ITEM": "5", "ANTIPHON_LIMITS_LOGIN_SECONDS": "soon"}
    assert faults(tmp_path, "", variables) == [
        "environment ANTIPHON_LIMITS_ROSTER_ITEM: sets no known key; "
        "did you mean ANTIPHON_LIMITS_ROSTER_ITEMS?",
        "environment ANTIPHON_LIMITS_LOGIN_SECONDS: limits.login_seconds: "
        "expected a whole number, got a string",
    ]


@pytest.mark.parametrize(
    "name",
    ["ANTIPHON_SERVICE_HOST", "ANTIPHON_PORT_5222_TCP_ADDR", "ANTIPHON_NODE_PORT", "ANTIPHON_XYZ"],
)
def test_variables_that_an_orchestrator_sets_are_left_alone(tmp_path: Path, name: str) -> None:
    read(tmp_path, "", {name: "tcp://10.0.0.1:5222"})


def test_a_secret_given_twice_is_an_error(tmp_path: Path) -> None:
    text = '[cluster.etcd]\npassword = "a"\npassword_file = "b"\n'
    assert faults(tmp_path, text) == [
        "antiphon.toml:3: cluster.etcd.password_file: "
        "both password and password_file are set; keep one"
    ]


def test_a_secret_file_that_is_missing_is_named(tmp_path: Path) -> None:
    found = faults(tmp_path, '[cluster.etcd]\npassword_file = "b"\n')
    assert found == [
        "antiphon.toml:2: cluster.etcd.password_file: cannot read b: No such file or directory"
    ]


def test_a_domain_overrides_single_options_and_keeps_the_rest(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        domains = ["a.example", "b.example"]
        [modules]
        disable = ["carbons"]
        [modules.push]
        max_devices = 9
        title = "hello"
        [domain."b.example".modules]
        disable = []
        [domain."b.example".modules.push]
        max_devices = 2
        """,
    ).config
    first, second = config.host("a.example"), config.host("b.example")
    assert first.options("push", Push) == Push(max_devices=9, title="hello")
    assert second.options("push", Push) == Push(max_devices=2, title="hello")
    assert not first.is_enabled("carbons")
    assert second.is_enabled("carbons")
    assert second.options("in-band", Register) == Register()


def test_an_unknown_option_below_a_domain_is_found(tmp_path: Path) -> None:
    text = 'domains = ["a.example"]\n[domain."a.example".modules.push]\nmax_device = 1\n'
    assert faults(tmp_path, text) == [
        'antiphon.toml:3: domain."a.example".modules.push.max_device: '
        "unknown key; did you mean max_devices?"
    ]


def test_a_domain_that_is_not_served_has_no_settings(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        read(tmp_path, "").config.host("other.example")
