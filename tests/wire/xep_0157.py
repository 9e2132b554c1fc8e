# SPDX-License-Identifier: Apache-2.0
"""XEP-0157 Contact Addresses for XMPP Services."""

from __future__ import annotations

import pytest

from support import ns
from support.client import Client
from support.xml import E

ABUSE = "mailto:abuse@wire.example"


@pytest.mark.settings(modules_contact={"abuse": [ABUSE]})
async def test_contact_addresses_are_in_the_disco_answer(romeo: Client) -> None:
    # XEP-0157 #protocol, example 2; a form of type result (XEP-0128)
    reply = await romeo.iq("get", to=romeo.host, payload=E("query", ns.DISCO_INFO))
    forms = reply.at(("query", ns.DISCO_INFO)).all("x", ns.DATA_FORMS)
    fields = {
        f.get("var"): [v.text for v in f.all("value")]
        for form in forms
        for f in form.all("field")
        if form.get("type") == "result"
    }
    assert ns.SERVER_INFO in fields["FORM_TYPE"]
    assert fields["abuse-addresses"] == [ABUSE]


@pytest.mark.ours("without addresses there is no form")
async def test_without_addresses_no_empty_form_is_shown(romeo: Client) -> None:
    reply = await romeo.iq("get", to=romeo.host, payload=E("query", ns.DISCO_INFO))
    forms = reply.at(("query", ns.DISCO_INFO)).all("x", ns.DATA_FORMS)
    values = {v.text for x in forms for f in x.all("field") for v in f.all("value")}
    assert ns.SERVER_INFO not in values
