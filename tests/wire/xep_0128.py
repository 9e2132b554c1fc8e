# SPDX-License-Identifier: Apache-2.0
"""XEP-0128 Service Discovery Extensions: well-formed forms in disco#info results."""

from __future__ import annotations

import pytest

from support import ns
from support.client import Client
from support.xml import E


@pytest.mark.settings(modules_contact={"abuse": ["mailto:abuse@wire.example"]})
async def test_every_form_names_its_type_first_and_once(romeo: Client) -> None:
    # XEP-0128 #protocol with XEP-0068: hidden FORM_TYPE, form type result, one form per type
    reply = await romeo.iq("get", to=romeo.host, payload=E("query", ns.DISCO_INFO))
    forms = reply.at(("query", ns.DISCO_INFO)).all("x", ns.DATA_FORMS)
    assert forms
    kinds = []
    for form in forms:
        assert form.get("type") == "result"
        (kind,) = [f for f in form.all("field") if f.get("var") == "FORM_TYPE"]
        assert kind.get("type") == "hidden"
        kinds.append(kind.at("value").text)
    assert len(kinds) == len(set(kinds))
