# SPDX-License-Identifier: Apache-2.0
import pytest

from antiphon._core import Element
from antiphon.xmpp import ns
from antiphon.xmpp.disco import MAX_PARTS, IllFormedError, Info, verification
from antiphon.xmpp.stanza import E

FEATURES = "".join(
    f"<feature var='http://jabber.org/protocol/{name}'/>"
    for name in ("disco#info", "disco#items", "muc", "caps")
)
SIMPLE = f"""<query xmlns='{ns.DISCO_INFO}'>
<identity category='client' type='pc' name='Exodus 0.9.1'/>{FEATURES}</query>"""
FORM = """<x xmlns='jabber:x:data' type='result'>
<field var='FORM_TYPE' type='hidden'><value>urn:xmpp:dataforms:softwareinfo</value></field>
<field var='ip_version' type='text-multi'><value>ipv4</value><value>ipv6</value></field>
<field var='os'><value>Mac</value></field><field var='os_version'><value>10.5.1</value></field>
<field var='software'><value>Psi</value></field>
<field var='software_version'><value>0.11</value></field></x>"""
COMPLEX = f"""<query xmlns='{ns.DISCO_INFO}' node='http://psi-im.org#q07IKJEyjvHSyhy//CH0CxmKi8w='>
<identity xml:lang='en' category='client' name='Psi 0.11' type='pc'/>
<identity xml:lang='el' category='client' name='Ψ 0.11' type='pc'/>{FEATURES}{FORM}</query>"""


def ver(xml: str, hash_name: str = "sha-1") -> str:
    return verification(Info.of(Element.parse(xml.encode())), hash_name)


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        (SIMPLE, "QgayPKawpkPSDYmwT/WM94uAlu0="),  # XEP-0115 #ver-gen-simple
        (COMPLEX, "q07IKJEyjvHSyhy//CH0CxmKi8w="),  # XEP-0115 #ver-gen-complex
    ],
)
def test_hashes_of_the_specification(xml: str, expected: str) -> None:
    assert ver(xml) == expected


def test_the_order_of_parts_does_not_matter() -> None:
    children = list(Element.parse(COMPLEX.encode()).children)
    shuffled = Info.of(E("query", ns.DISCO_INFO, *reversed(children)))
    assert verification(shuffled, "sha-1") == "q07IKJEyjvHSyhy//CH0CxmKi8w="


def test_other_hashes_give_other_values() -> None:
    assert len({ver(SIMPLE, name) for name in ("sha-1", "sha-256", "sha-512")}) == 3
    with pytest.raises(KeyError):
        ver(SIMPLE, "md5")


@pytest.mark.parametrize(
    "twice",
    [
        "<identity category='client' type='pc' name='Exodus 0.9.1'/>",
        "<feature var='http://jabber.org/protocol/muc'/>",
        FORM + FORM,
        FORM.replace("<value>urn", "<value>other</value><value>urn"),
        "<feature/>",
        "<identity category='client'/>",
        "<feature var='a&lt;b'/>",
    ],
)
def test_an_ill_formed_answer_has_no_hash(twice: str) -> None:
    # XEP-0115 #ver-proc, steps 3.3 to 3.5, and §9.3 for the separator
    with pytest.raises(IllFormedError):
        ver(SIMPLE.replace("</query>", f"{twice}</query>"))


@pytest.mark.parametrize(
    "form",
    [
        FORM.replace("type='hidden'", "type='text-single'"),
        FORM.replace("FORM_TYPE", "FORM"),
        FORM.replace("<value>urn:xmpp:dataforms:softwareinfo</value>", ""),
    ],
)
def test_a_form_without_a_hidden_form_type_is_ignored(form: str) -> None:
    # XEP-0115 #ver-proc, step 3.6
    assert ver(SIMPLE.replace("</query>", f"{form}</query>")) == ver(SIMPLE)


def test_an_answer_with_too_many_parts_is_ill_formed() -> None:
    features = [E("feature", ns.DISCO_INFO, var=str(n)) for n in range(MAX_PARTS + 1)]
    with pytest.raises(IllFormedError):
        Info.of(E("query", ns.DISCO_INFO, *features))


def test_an_answer_is_written_as_it_is_read() -> None:
    info = Info.of(Element.parse(SIMPLE.encode()))
    assert Info.of(info.to_element("a node")) == info
    assert info.to_element("a node").get("node") == "a node"
