# SPDX-License-Identifier: Apache-2.0
"""Logging in as somebody else, finding out who exists, taking over sessions.

Cases 9 to 12 of README.md, as far as tests/wire/rfc6120_sasl.py and xep_0198.py leave them.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from base64 import b64decode, b64encode
from statistics import median

import pytest

from support import ns
from support.client import Client, SaslFailed, StreamClosed
from support.hostile import Bystanders
from support.play import Clients
from support.sasl import Scram, plain
from support.server import Server
from support.xml import E, message

pytestmark = pytest.mark.ours("names of conditions differ between servers")

patient = pytest.mark.settings(limits={"auth_attempts": 0})
FAILURES = ("not-authorized", "malformed-request", "invalid-authzid", "incorrect-encoding")


# -- 9: names that are nearly another's -------------------------------------------------------------


def disguises(user: str, domain: str) -> dict[str, tuple[str, str]]:
    """(authzid, name) pairs with which somebody might pass for that user."""
    return {
        "authzid": (f"{user}@{domain}", ""),
        "NUL behind": ("", f"{user}\0"),
        "NUL inside the authzid": (f"{user}\0@{domain}", ""),
        "address as a name": ("", f"{user}@{domain}"),
        "resource": ("", f"{user}/x"),
        "blank behind": ("", f"{user} "),
        "soft hyphen": ("", f"{user[0]}\u00ad{user[1:]}"),
        "zero width": ("", f"{user}\u200b"),
        "right to left": ("", f"\u202e{user}"),
        "private use": ("", f"{user}\ue000"),
        "unassigned": ("", f"{user}\u0378"),
        "combining": ("", f"{user}\u0301"),
        "escaped comma": ("", f"{user}=2C"),
        "long": ("", user * 300),
        "empty": ("", ""),
    }


@pytest.mark.parametrize("name", disguises("user", "host"))
@patient
async def test_a_login_with_a_disguised_name_is_not_the_other(
    clients: Clients, server: Server, name: str
) -> None:
    # the thief's own password, the victim's name in disguise
    victim, thief = server.account(), server.account()
    authzid, user = disguises(victim.user, victim.domain)[name]
    user = user or thief.user
    if name == "empty":
        user = ""
    client = await clients.stream(account=thief)
    with pytest.raises(SaslFailed) as failure:
        await client.sasl("PLAIN", plain(user, thief.password, authzid))
    assert failure.value.condition in FAILURES
    scram = Scram("SCRAM-SHA-256", user, thief.password, authzid=authzid.replace("\0", ""))
    with pytest.raises(SaslFailed) as failure:
        await client.scram(scram)
    assert failure.value.condition in FAILURES
    await client.authenticate()
    await client.bind()
    assert client.bare == thief.jid


@pytest.mark.parametrize(
    "password", ["", " ", "\0", "x" * 5_000, "\u00a0", "\u200b", "\udcff"], ids=repr
)
@patient
async def test_an_odd_password_opens_nothing(clients: Clients, password: str) -> None:
    client = await clients.stream()
    assert client.account is not None
    octets = f"\0{client.account.user}\0".encode() + password.encode(errors="surrogateescape")
    with pytest.raises(SaslFailed) as failure:
        await client.sasl("PLAIN", octets)
    assert failure.value.condition in FAILURES


async def test_a_password_of_another_host_is_none(clients: Clients, server: Server) -> None:
    # the same localpart on two hosts is two accounts
    here = server.account()
    client = await clients.stream(domain=server.settings.domains[-1])
    for authzid in ("", here.jid):
        with pytest.raises(SaslFailed):
            await client.sasl("PLAIN", plain(here.user, here.password, authzid))


# -- 11: SCRAM -----------------------------------------------------------------------------------


async def test_what_was_overheard_opens_nothing(clients: Clients) -> None:
    # the server's part of the nonce is new each time, whatever the client's is
    client = await clients.stream()
    assert client.account is not None
    first = Scram("SCRAM-SHA-256", client.account.user, client.account.password)
    challenge = await client.sasl(first.mechanism, first.first())
    overheard = first.final(challenge)
    await client.sasl_response(overheard)
    replay = await clients.stream(account=client.account)
    again = await replay.sasl(first.mechanism, first.first())
    assert again != challenge
    with pytest.raises(SaslFailed) as failure:
        await replay.sasl_response(overheard)
    assert failure.value.condition in FAILURES


async def test_the_proof_of_one_connection_is_none_on_another(clients: Clients) -> None:
    # channel binding: a man in the middle passes on what a client proves (RFC 5802 §6)
    client = await clients.stream()
    assert client.account is not None
    other = await clients.stream("direct", account=client.account)
    for type_ in ("tls-exporter", "tls-server-end-point"):
        scram = Scram(
            "SCRAM-SHA-256-PLUS",
            client.account.user,
            client.account.password,
            cb_type=type_,
            cb_data=secrets.token_bytes(32),
        )
        challenge = await other.sasl(scram.mechanism, scram.first())
        with pytest.raises(SaslFailed) as failure:
            await other.sasl_response(scram.final(challenge))
        assert failure.value.condition in FAILURES


ORDERS = {
    "response first": [("response", b"x")],
    "auth in an exchange": [("auth", None), ("auth", None)],
    "final twice": [("auth", None), ("response", b"c=biws,r=x,p=eA=="), ("response", b"x")],
    "success from the client": [("success", b"")],
    "challenge from the client": [("auth", None), ("challenge", b"")],
    "empty final": [("auth", None), ("response", b"")],
    "bind in an exchange": [("auth", None), ("bind", None)],
    "abort twice": [("auth", None), ("abort", None), ("abort", None)],
}


@pytest.mark.parametrize("steps", ORDERS.values(), ids=ORDERS)
async def test_steps_out_of_order_never_log_in(
    clients: Clients, steps: list[tuple[str, bytes | None]]
) -> None:
    client = await clients.stream()
    assert client.account is not None
    scram = Scram("SCRAM-SHA-256", client.account.user, client.account.password)
    try:
        for name, text in steps:
            if name == "auth":
                client.send_raw(
                    f"<auth xmlns='{ns.SASL}' mechanism='{scram.mechanism}'>"
                    f"{_base64(scram.first())}</auth>"
                )
            elif name == "bind":
                client.send_raw(f"<iq type='set' id='b'><bind xmlns='{ns.BIND}'/></iq>")
            else:
                client.send(E(name, ns.SASL, _base64(text or b"")))
            answer = await client.next()
            assert answer.name in ("challenge", "failure", "error"), str(answer)
    except StreamClosed:
        return
    with pytest.raises(AssertionError):
        await client.bind()


def _base64(octets: bytes) -> str:
    return b64encode(octets).decode()


@patient
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_nobody_takes_as_long_to_refuse_as_somebody(
    clients: Clients, server: Server, mechanism: str
) -> None:
    # CVE-2021-32921 and the like; in turns and the middle of many, since the machine is not ours
    client = await clients.stream()
    known = server.account().user
    names = {"somebody": known, "nobody": f"x{known}"}
    times: dict[str, list[float]] = {name: [] for name in names}
    shapes: dict[str, set[tuple[int, str]]] = {name: set() for name in names}
    for _ in range(40):
        for who, user in names.items():
            began = time.perf_counter()
            if mechanism == "PLAIN":
                with pytest.raises(SaslFailed) as failure:
                    await client.sasl("PLAIN", plain(user, "wrong"))
            else:
                scram = Scram(mechanism, user, "wrong")
                challenge = await client.sasl(mechanism, scram.first())
                times[who].append(time.perf_counter() - began)
                fields = dict(p.split("=", 1) for p in challenge.decode().split(","))
                shapes[who].add((len(b64decode(fields["s"])), fields["i"]))
                with pytest.raises(SaslFailed) as failure:
                    await client.sasl_response(scram.final(challenge))
            if mechanism == "PLAIN":
                times[who].append(time.perf_counter() - began)
            assert failure.value.condition == "not-authorized"
    assert shapes["somebody"] == shapes["nobody"], "salts of another length, other iterations"
    one, other = (median(times[who]) for who in names)
    assert abs(one - other) < max(0.002, 0.35 * max(one, other)), (one, other)


@pytest.mark.settings(limits={"auth_failures_per_minute": 20})
async def test_a_search_for_passwords_is_slowed_and_spares_others(
    clients: Clients, server: Server
) -> None:
    async with Bystanders(clients):
        victim = server.account()
        refused = 0
        for _ in range(12):
            client = clients.raw(account=victim)
            try:
                await client.negotiate()
                for _ in range(4):
                    with pytest.raises(SaslFailed) as failure:
                        await client.sasl("PLAIN", plain(victim.user, "guess"))
                    refused += failure.value.condition != "not-authorized"
            except (StreamClosed, OSError):
                refused += 1
            client.abort()
        assert refused >= 6, "48 guesses were looked at, 20 a minute are allowed"


# -- 12: sessions of others ---------------------------------------------------------------------


async def resumable(clients: Clients) -> Client:
    """An available client whose session can be resumed."""
    client = await clients.bound()
    await client.sm_enable()
    await client.roster()
    await client.online()
    return client


async def test_guesses_about_sessions_all_look_alike(clients: Clients) -> None:
    # of another user, of nobody, nearly right, right but of an account on another connection
    old = await resumable(clients)
    assert old.sm is not None
    assert old.sm.id is not None
    real = old.sm.id
    thief = await clients.authenticated()
    seen = set()
    guesses = [real, real[:-1], real + "A", real.swapcase(), real[::-1], "", real * 50]
    guesses += [secrets.token_urlsafe(24) for _ in range(50)]
    for guess in guesses:
        thief.send(E("resume", ns.SM, previd=guess, h="0"))
        try:
            answer = await thief.next()
        except StreamClosed:
            break
        if answer.tag == ("error", ns.STREAM):
            assert answer.condition == "policy-violation", "enough guesses for one stream"
            break
        seen.add((answer.name, answer.condition, answer.get("h")))
    else:
        await thief.bind()
    assert seen == {("failed", "item-not-found", None)}
    await old.sync()  # nobody has disturbed it


async def test_a_session_is_one_connections_however_many_ask(
    clients: Clients, romeo: Client
) -> None:
    old = await resumable(clients)
    old.abort()
    many = [await clients.authenticated(old.account) for _ in range(6)]
    answers = await asyncio.gather(*(c.sm_resume(old) for c in many), return_exceptions=True)
    assert any(getattr(a, "name", "") == "resumed" for a in answers)
    await asyncio.sleep(0.2)
    romeo.send(message(old.jid, "once"))
    await romeo.sync()
    await asyncio.sleep(0.2)
    got = [e for c in many for e in c.drain() if e.body == "once"]
    assert len(got) == 1
    for answer in answers:
        if getattr(answer, "name", "") == "failed":
            assert getattr(answer, "condition", "") == "item-not-found"


async def test_a_session_does_not_move_to_another_host(clients: Clients, server: Server) -> None:
    # the same localpart, password and id on the other host
    old = await resumable(clients)
    assert old.account is not None
    twin = server.named(old.account.user, server.settings.domains[-1])
    server.create([twin])
    thief = await clients.authenticated(twin)
    answer = await thief.sm_resume(old)
    assert (answer.name, answer.condition, answer.get("h")) == ("failed", "item-not-found", None)
    await old.sync()


async def test_a_resumption_takes_no_more_than_was_sent(clients: Clients, romeo: Client) -> None:
    # an `h` far beyond, or of another kind, must not drop what waits nor end the node
    for h in (2**32 - 1, 2**31, 10**6):
        old = await resumable(clients)
        old.abort()
        romeo.send(message(old.jid, "kept", type="chat"))
        await romeo.sync()
        thief = await clients.authenticated(old.account)
        try:
            if (await thief.sm_resume(old, h=h)).name == "resumed":
                # taken for a count from before the last one, which confirms nothing
                assert (await thief.expect("message")).body == "kept"
                continue
        except StreamClosed:
            pass
        again = await clients.authenticated(old.account)
        resumed = await again.sm_resume(old)
        if resumed.name == "resumed":
            assert (await again.expect("message")).body == "kept"
        else:
            await again.bind()
            await again.roster()
            await again.online()
            assert (await again.expect("message")).body == "kept"
