# SPDX-License-Identifier: Apache-2.0
"""Administrators look at archives and delete from them; deleted accounts leave none."""

from __future__ import annotations

import json

import pytest

from support.antiphon import Antiphon
from support.archive import archive, inbox, said
from support.client import Client
from support.play import Clients
from support.server import Server

pytestmark = pytest.mark.ours("the command line of this server")


def ran(server: Server, *arguments: str) -> object:
    """What a command says."""
    assert isinstance(server, Antiphon)
    done = server.command("command", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def test_an_archive_is_looked_at_and_purged(
    server: Server, clients: Clients, romeo: Client, juliet: Client
) -> None:
    nurse = await clients.online()
    await said(romeo, juliet, "1", "2")
    await said(romeo, nurse, "3")
    found = (await archive(romeo)).results
    assert ran(server, "archive-size", romeo.bare) == {
        "messages": 3,
        "first": found[0].stamp,
        "last": found[-1].stamp,
    }
    ran(server, "purge-archive", romeo.bare, "--peer", juliet.bare, "--before", found[1].stamp)
    kept = [one.body for one in found if one.stamp >= found[1].stamp]
    assert (await archive(romeo)).bodies == kept
    ran(server, "purge-archive", romeo.bare, "--peer", juliet.bare)
    assert (await archive(romeo)).bodies == ["3"]
    assert (await archive(juliet)).bodies == ["1", "2"]
    ran(server, "purge-archive", romeo.bare)
    assert (await archive(romeo)).bodies == []
    await said(romeo, juliet, "4")
    assert (await archive(romeo)).bodies == ["4"]


async def test_an_account_goes_with_its_archive_and_its_inbox(
    server: Server, clients: Clients, romeo: Client
) -> None:
    account = server.account()
    juliet = await clients.online(account)
    await said(romeo, juliet, "1")
    ran(server, "delete-account", account.jid)
    await juliet.expect_end()
    assert isinstance(server, Antiphon)
    server.create([account])
    again = await clients.online(account)
    assert (await archive(again)).results == []
    assert (await inbox(again)).entries == []
    assert (await archive(romeo)).bodies == ["1"]
