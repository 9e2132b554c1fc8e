# SPDX-License-Identifier: Apache-2.0
import ast
import re
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from antiphon._core import Element, Jid
from antiphon.config.core import CORE_MODULES
from antiphon.config.schema import Modules
from antiphon.xep import _registry
from antiphon.xep._declare import Declaration, Rfc, Xep
from antiphon.xep._registry import Assembly, DeclarationError, Registry, registry
from antiphon.xmpp import ns
from antiphon.xmpp.disco import Info, verification
from antiphon.xmpp.stanza import E
from tests.unit.fake_core import Harness, make_config, refused

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "python/antiphon/xep").glob("xep_*"))
XEPS = [one for one in registry().features if isinstance(one, Xep)]


def rfc(name: str, **given: object) -> Rfc:
    feature = Rfc(9999, "1", title=name, **given)  # type: ignore[arg-type]
    feature.bind(name)
    return feature


def test_every_file_is_found_and_declares_itself() -> None:
    assert [int(one.stem[4:8]) for one in FILES] == [xep.number for xep in XEPS]
    assert {one.name for one in registry().features} >= {"roster", "presence", "messaging", "disco"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_begins_with_number_title_version_and_gain(file: Path) -> None:
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    xep = next(one for one in XEPS if one.number == int(file.stem[4:8]))
    head = f"XEP-{xep.number:04} {xep.title} {xep.version}: "
    assert docstring.startswith(head)
    assert docstring.partition("\n")[0].endswith(".") or docstring.partition("\n")[0].endswith("?")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_has_its_wire_test(file: Path) -> None:
    wire = ROOT / "tests/wire" / f"xep_{file.stem[4:8]}.py"
    if not wire.exists():
        pytest.fail(f"{wire.relative_to(ROOT)} is missing")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_imports_only_files_that_it_requires(file: Path) -> None:
    xep = next(one for one in XEPS if one.number == int(file.stem[4:8]))
    imported = re.findall(r"^from antiphon\.xep\.xep_(\d{4})", file.read_text(), re.MULTILINE)
    assert {int(number) for number in imported} <= set(xep.requires)


def test_only_names_that_can_be_turned_off_are_offered() -> None:
    configs = registry().configs()
    assert "sm" in configs
    assert "forms" not in configs
    assert set(CORE_MODULES) <= set(configs)


def test_every_option_has_a_default_and_a_description() -> None:
    for name, kind in registry().configs().items():
        if kind is None:
            continue
        kind()
        for field in msgspec.structs.fields(kind):
            info = msgspec.inspect.type_info(field.type)
            extra = info.extra_json_schema if isinstance(info, msgspec.inspect.Metadata) else None
            assert extra, f"{name}.{field.encode_name} lacks a description"
            assert "description" in extra


def test_numbers_of_handlers_do_not_depend_on_the_configuration() -> None:
    everything = registry().assemble(make_config())
    little = registry().assemble(make_config(disable=["vcard", "private", "disco"]))
    assert everything.declarations == little.declarations


def test_own_and_account_are_one_target_for_the_core() -> None:
    targets = {(one.ns, one.target) for one in registry().assemble(make_config()).declarations}
    assert (ns.ROSTER, "account") in targets
    assert (ns.VERSION, "host") in targets


def test_the_rosters_handlers_are_ordered() -> None:
    ordered = {
        (one.ns, one.is_set)
        for one in registry().assemble(make_config()).declarations
        if one.ordered
    }
    assert {(ns.ROSTER, False), (ns.ROSTER, True)} <= ordered


def test_a_switch_of_the_core_is_off_only_when_off_everywhere() -> None:
    everywhere = registry().assemble(make_config(disable=["carbons"]))
    assert not everywhere.core_modules["carbons"]
    assert everywhere.core_modules["sm"]
    config = make_config("a.example", "b.example")
    off = msgspec.structs.replace(config.domain.get("b.example") or _domain(), modules=_off())
    config = msgspec.structs.replace(config, domain={"b.example": off})
    somewhere = registry().assemble(config)
    assert somewhere.core_modules["carbons"]
    of_a, of_b = (host.modules for host in somewhere.core_hosts)
    assert of_a is None
    assert of_b == {**somewhere.core_modules, "carbons": False}
    assert ns.CARBONS not in somewhere.contexts["b.example"].host.features
    assert ns.CARBONS in somewhere.contexts["a.example"].host.features


def _domain() -> Struct:
    from antiphon.config.schema import Domain  # noqa: PLC0415

    return Domain()


def _off() -> Modules:
    return Modules(disable=("carbons", "version"))


async def test_a_handler_of_a_feature_that_is_off_is_not_available() -> None:
    h = Harness(make_config(disable=["version"]))
    query = E("query", ns.VERSION)
    error = await refused(h.iq("get", query, to="capulet.example"))
    assert error.condition == "service-unavailable"
    answer = await h.iq("get", E("query", ns.DISCO_INFO), to="capulet.example")
    assert answer is not None
    assert ns.VERSION not in Info.of(answer).features


def test_what_requires_a_feature_that_is_off_is_off_too() -> None:
    enabled = registry().assemble(make_config(disable=["disco"])).contexts["capulet.example"]
    assert not {"disco", "commands", "admin", "caps", "contact"} & enabled.host.enabled


def test_registration_is_off_by_default() -> None:
    assembly = registry().assemble(make_config())
    assert "register" not in assembly.contexts["capulet.example"].host.enabled
    assert not assembly.core_hosts[0].registration


def test_a_host_announces_the_hash_of_its_own_discovery_answer() -> None:
    assembly = registry().assemble(make_config(admins=["admin@capulet.example"]))
    caps = Element.parse(assembly.core_hosts[0].extra_features.encode())
    assert (caps.ns, caps.name, caps.get("hash")) == (ns.CAPS, "c", "sha-1")
    assert caps.get("ver")


async def test_the_announced_hash_is_that_of_the_answer_on_the_wire() -> None:
    h = Harness(make_config(admins=["admin@capulet.example"]))
    caps = Element.parse(h.assembly.extra_features("capulet.example").encode())
    node = f"{caps.get('node')}#{caps.get('ver')}"
    for query in (E("query", ns.DISCO_INFO), E("query", ns.DISCO_INFO, node=node)):
        answer = await h.iq("get", query, to="capulet.example")
        assert answer is not None
        assert answer.get("node") == query.get("node")
        assert verification(Info.of(answer), "sha-1") == caps.get("ver")


def test_components_are_listed_under_their_domain() -> None:
    config = make_config(
        "a.example", "b.example", components=["x.b.example", "y.a.example", "elsewhere.example"]
    )
    contexts = registry().assemble(config).contexts
    assert contexts["a.example"].host.components == (Jid("y.a.example"), Jid("elsewhere.example"))
    assert contexts["b.example"].host.components == (Jid("x.b.example"),)


def test_a_reload_keeps_what_features_remember() -> None:
    first = registry().assemble(make_config())
    first.slots["x"] = 1
    assert registry().assemble(make_config(), first).slots is first.slots


@pytest.mark.parametrize(
    "features",
    [
        [rfc("a"), rfc("a")],
        [rfc("a", requires=["b"])],
        [rfc("a", requires=[30])],
    ],
)
def test_a_registry_that_does_not_fit_together_is_refused(features: list[Declaration]) -> None:
    with pytest.raises(DeclarationError):
        Registry(features)


def test_two_answers_to_one_question_are_refused() -> None:
    one, other = rfc("one"), rfc("other")
    one.iq("get", "urn:x", "q", to="own")(lambda _ctx, _iq: None)
    other.iq("get", "urn:x", "q", to="account")(lambda _ctx, _iq: None)
    with pytest.raises(DeclarationError, match="both answer"):
        Registry([one, other])


def test_a_switch_that_the_core_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="no switch"):
        rfc("x", core="flux")


def test_a_feature_has_no_name_before_it_is_found() -> None:
    with pytest.raises(RuntimeError):
        _ = Rfc(9999, "1", title="x").name


async def test_calls_before_the_start_are_a_fault() -> None:
    assembly = Assembly(registry().features, make_config(), {})
    with pytest.raises(RuntimeError, match="not started"):
        await assembly.store.node.stats()


def test_packages_are_those_of_the_features() -> None:
    assert _registry.PACKAGES == ("antiphon.im", "antiphon.xep", "antiphon.federation")
