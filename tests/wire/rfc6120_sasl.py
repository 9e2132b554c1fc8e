# SPDX-License-Identifier: Apache-2.0
"""RFC 6120 §6, RFC 5802, RFC 7677, XEP-0440, XEP-0175, XEP-0178: authentication."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from pathlib import Path

import pytest

from support import ns
from support.certs import Authority
from support.client import Client, SaslFailed, StreamClosed
from support.play import Clients, Servers
from support.sasl import Scram, plain
from support.server import Server, Settings
from support.xml import E

SCRAMS = ["SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-512"]
HASH = {"prosody": "stores one hash per account, here SHA-1"}
PLUS = {"prosody": "0.12 binds channels by tls-unique only"}


def exchange(client: Client, mechanism: str | None = None, **fields: str) -> Scram:
    """A SCRAM exchange for the client's account, with whatever fields differ."""
    assert client.account is not None
    made = Scram(mechanism or client.choose(), client.account.user, client.account.password)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


async def refused(client: Client, scram: Scram) -> str | None:
    """Runs the exchange, which must fail; the condition."""
    with pytest.raises(SaslFailed) as failure:
        await client.scram(scram)
    return failure.value.condition


# -- offers -------------------------------------------------------------------


async def test_scram_and_plain_are_offered_under_tls(clients: Clients) -> None:
    client = await clients.stream()
    assert {"SCRAM-SHA-1", "PLAIN"} <= set(client.mechanisms)


@pytest.mark.ours("all SCRAM mechanisms, strongest first")
@pytest.mark.parametrize("kind", ["starttls", "direct"])
async def test_offer_is_complete_and_ordered(clients: Clients, kind: str) -> None:
    client = await clients.stream(kind)
    plus = [f"{m}-PLUS" for m in reversed(SCRAMS)]
    assert client.mechanisms == [*plus, *reversed(SCRAMS), "PLAIN"]


@pytest.mark.ours("XEP-0440 came later than Prosody 0.12")
async def test_channel_binding_types_are_announced(clients: Clients) -> None:
    # XEP-0440, example 1; tls-server-end-point must be offered (rule 1)
    client = await clients.stream()
    offered = client.features.at(("sasl-channel-binding", ns.SASL_CB))
    types = {c.get("type") for c in offered.all("channel-binding")}
    assert "tls-server-end-point" in types
    assert "tls-exporter" in types
    assert "tls-unique" not in types


async def test_no_channel_binding_is_offered_over_websocket(clients: Clients) -> None:
    client = await clients.stream("wss")
    assert client.mechanisms
    assert not [m for m in client.mechanisms if m.endswith("-PLUS")]
    assert not client.features.has("sasl-channel-binding", ns.SASL_CB)


async def test_nothing_is_offered_without_tls(clients: Clients) -> None:
    client = clients.raw()
    await client.connect()
    await client.open_stream()
    assert client.mechanisms == []


@pytest.mark.ours("the listener without TLS")
async def test_nothing_is_offered_on_a_listener_without_tls(clients: Clients) -> None:
    client = clients.raw("plain")
    await client.connect()
    await client.open_stream()
    assert client.mechanisms == []
    assert not client.features.has("starttls", ns.TLS)


@pytest.mark.ours("allow_plaintext")
@pytest.mark.settings(auth={"allow_plaintext": True})
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
async def test_allow_plaintext_offers_mechanisms_without_tls(
    clients: Clients, mechanism: str
) -> None:
    client = await clients.stream("plain")
    await client.authenticate(mechanism)
    await client.bind()


@pytest.mark.ours("auth.mechanisms")
@pytest.mark.settings(auth={"mechanisms": ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"]})
async def test_configured_mechanisms_alone_are_offered(clients: Clients) -> None:
    client = await clients.stream()
    assert set(client.mechanisms) == {"SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"}
    with pytest.raises(SaslFailed) as failure:
        await client.sasl("PLAIN", plain("x", "y"))
    assert failure.value.condition == "invalid-mechanism"


# -- success ------------------------------------------------------------------


@pytest.mark.parametrize(
    "mechanism",
    [
        "SCRAM-SHA-1",
        "PLAIN",
        pytest.param("SCRAM-SHA-256", marks=pytest.mark.deviates(**HASH)),
        pytest.param("SCRAM-SHA-512", marks=pytest.mark.deviates(**HASH)),
    ],
)
@pytest.mark.parametrize("kind", ["starttls", "direct", "wss"])
async def test_login_succeeds(clients: Clients, kind: str, mechanism: str) -> None:
    client = await clients.stream(kind)
    await client.authenticate(mechanism)
    await client.bind()
    assert client.bare == client.account.jid if client.account else False


@pytest.mark.deviates(**PLUS)
@pytest.mark.parametrize("mechanism", [f"{m}-PLUS" for m in SCRAMS])
@pytest.mark.parametrize("kind", ["starttls", "direct"])
async def test_login_with_tls_server_end_point_succeeds(
    clients: Clients, kind: str, mechanism: str
) -> None:
    # RFC 5929 §4
    client = await clients.stream(kind)
    await client.authenticate(mechanism)
    await client.bind()


@pytest.mark.deviates(prosody="answers malformed-request")
async def test_scram_without_initial_response_begins_with_a_challenge(clients: Clients) -> None:
    # RFC 6120 §6.4.2 and §6.4.3: no initial response, an empty challenge
    client = await clients.stream()
    scram = exchange(client)
    assert await client.sasl(scram.mechanism, None) == b""
    first = await client.sasl_response(scram.first())
    scram.verify(await client.sasl_response(scram.final(first)))


@pytest.mark.deviates(prosody="answers malformed-request")
async def test_plain_without_initial_response_begins_with_a_challenge(clients: Clients) -> None:
    client = await clients.stream()
    assert client.account is not None
    assert await client.sasl("PLAIN", None) == b""
    await client.sasl_response(plain(client.account.user, client.account.password))
    assert client.last_sasl.name == "success"


async def test_salt_and_iterations_are_stable_between_logins(clients: Clients) -> None:
    account = clients.server.account()
    seen = set()
    for _ in range(2):
        client = await clients.stream(account=account)
        scram = exchange(client)
        await client.scram(scram)
        seen.add((scram.salt, scram.iterations))
    assert len(seen) == 1


async def test_iterations_are_at_least_4096(clients: Clients) -> None:
    # RFC 7677 §4
    client = await clients.stream()
    scram = exchange(client)
    await client.scram(scram)
    assert scram.iterations >= 4096


async def test_username_is_prepared_before_lookup(clients: Clients) -> None:
    # RFC 7622 §3.3: case is mapped
    client = await clients.stream()
    assert client.account is not None
    await client.sasl("PLAIN", plain(client.account.user.upper(), client.account.password))
    await client.open_stream()
    await client.bind()
    assert client.bare == client.account.jid


async def test_own_bare_jid_as_authzid_is_accepted(clients: Clients) -> None:
    # RFC 6120 §6.3.8
    client = await clients.stream()
    assert client.account is not None
    scram = exchange(client, authzid=client.account.jid)
    await client.scram(scram)


@pytest.mark.deviates(prosody="ignores the authzid of SCRAM")
async def test_scram_with_another_authzid_is_invalid_authzid(clients: Clients) -> None:
    client = await clients.stream()
    scram = exchange(client, authzid=f"other@{client.host}")
    assert await refused(client, scram) in ("invalid-authzid", "not-authorized")


@pytest.mark.deviates(prosody="ignores the authzid of PLAIN where it is allowed to")
async def test_plain_with_another_authzid_is_invalid_authzid(clients: Clients) -> None:
    # attack 9; RFC 6120 §6.5.6
    client = await clients.stream()
    assert client.account is not None
    with pytest.raises(SaslFailed) as failure:
        await client.sasl(
            "PLAIN",
            plain(client.account.user, client.account.password, f"other@{client.host}"),
        )
    assert failure.value.condition in ("invalid-authzid", "not-authorized")


@pytest.mark.deviates(prosody="0.12 has no -PLUS offer here, so that y is true")
async def test_y_flag_while_plus_was_offered_fails(clients: Clients) -> None:
    # RFC 5802 §6: a stripped offer
    client = await clients.stream()
    assert await refused(client, exchange(client, gs2="y,,")) == "not-authorized"


async def test_y_flag_where_no_plus_was_offered_succeeds(clients: Clients) -> None:
    client = await clients.stream("wss")
    await client.scram(exchange(client, gs2="y,,"))


async def test_optional_extension_is_ignored_and_signed(clients: Clients) -> None:
    # RFC 5802 §5.1: unknown optional attributes stay in AuthMessage
    client = await clients.stream()
    scram = exchange(client)
    scram.first()
    scram.nonce += ",x=unknown"
    scram.bare = f"n={scram.user},r={scram.nonce}"
    challenge = await client.sasl(scram.mechanism, f"n,,{scram.bare}".encode())
    scram.nonce = scram.nonce.removesuffix(",x=unknown")
    scram.verify(await client.sasl_response(scram.final(challenge)))


# -- failure ------------------------------------------------------------------


async def test_wrong_password_and_unknown_user_answer_alike(clients: Clients) -> None:
    # RFC 6120 §6.5.10, §13.11; attack 11: enumeration
    client = await clients.stream()
    wrong = await refused(client, exchange(client, password="wrong"))
    assert wrong == "not-authorized"
    with pytest.raises(SaslFailed) as failure:
        await client.sasl("PLAIN", plain("nobody-here", "wrong"))
    assert failure.value.condition == "not-authorized"


@pytest.mark.deviates(prosody="fails unknown users at the first message")
async def test_unknown_user_gets_a_challenge_like_any_other(clients: Clients) -> None:
    seen = []
    for _ in range(2):
        client = await clients.stream()
        scram = exchange(client, user="nobody-at-all")
        assert await refused(client, scram) == "not-authorized"
        seen.append((scram.salt, scram.iterations))
    assert seen[0] == seen[1], "the salt of an unknown user must be stable too"
    assert len(seen[0][0]) >= 12
    other = await clients.stream()
    scram = exchange(other, user="somebody-else")
    await refused(other, scram)
    assert scram.salt != seen[0][0]
    assert scram.iterations == seen[0][1]


async def test_unknown_mechanism_is_invalid_mechanism(clients: Clients) -> None:
    # RFC 6120 §6.5.7
    client = await clients.stream()
    with pytest.raises(SaslFailed) as failure:
        await client.sasl("X-UNKNOWN", None)
    assert failure.value.condition == "invalid-mechanism"


async def test_missing_mechanism_fails(clients: Clients) -> None:
    client = await clients.stream()
    client.send(E("auth", ns.SASL))
    answer = await client.next()
    assert answer.condition in ("invalid-mechanism", "malformed-request", "invalid-xml")


async def test_bad_base64_is_incorrect_encoding(clients: Clients) -> None:
    # RFC 6120 §6.5.5
    client = await clients.stream()
    client.send(E("auth", ns.SASL, "*** not base64 ***", mechanism="PLAIN"))
    answer = await client.next()
    assert (answer.name, answer.condition) == ("failure", "incorrect-encoding")


async def test_abort_is_answered_with_aborted(clients: Clients) -> None:
    # RFC 6120 §6.5.1
    client = await clients.stream()
    await client.sasl(exchange(client).mechanism, exchange(client).first())
    client.send(E("abort", ns.SASL))
    with pytest.raises(SaslFailed) as failure:
        await client.sasl_answer()
    assert failure.value.condition == "aborted"


async def test_retry_after_failure_succeeds(clients: Clients) -> None:
    # RFC 6120 §6.4.5: at least two retries
    client = await clients.stream()
    for _ in range(2):
        await refused(client, exchange(client, password="wrong"))
    await client.authenticate()


@pytest.mark.deviates(prosody="counts no attempts")
async def test_too_many_attempts_end_the_stream(clients: Clients) -> None:
    # RFC 6120 §6.4.5; contract: auth_attempts = 5
    client = await clients.stream()
    for _ in range(4):
        with pytest.raises(SaslFailed):
            await client.sasl("PLAIN", plain("x", "y"))
    client.send(E("auth", ns.SASL, b64encode(plain("x", "y")).decode(), mechanism="PLAIN"))
    await client.expect_stream_error("policy-violation")


@pytest.mark.ours("auth_failures_per_minute")
@pytest.mark.settings(limits={"auth_failures_per_minute": 4})
async def test_failures_of_an_address_are_limited(clients: Clients) -> None:
    # attack 11: brute force over many streams
    conditions = []
    for _ in range(8):
        client = clients.raw(account=clients.server.account())
        try:
            await client.negotiate()
            await client.sasl("PLAIN", plain("nobody", "guess"))
        except SaslFailed as failure:
            conditions.append(failure.condition)
        except (AssertionError, OSError):
            conditions.append("refused")
        client.abort()
    assert conditions[:4] == ["not-authorized"] * 4
    assert conditions[-1] != "not-authorized"


MALFORMED = {
    "empty": b"",
    "no header": b"n=user,r=abc",
    "bad flag": b"q,,n=user,r=abcdefghijkl",
    "no nonce": b"n,,n=user",
    "empty nonce": b"n,,n=user,r=",
    "empty name": b"n,,n=,r=abcdefghijkl",
    "bad escape": b"n,,n=us=41er,r=abcdefghijkl",
    "mandatory extension": b"n,,m=x,n=user,r=abcdefghijkl",
    "NUL": b"n,,n=us\x00er,r=abcdefghijkl",
    "not UTF-8": b"n,,n=\xff\xfe,r=abcdefghijkl",
    "bound but not PLUS": b"p=tls-exporter,,n=user,r=abcdefghijkl",
}


@pytest.mark.parametrize("first", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_scram_first_fails(clients: Clients, first: bytes) -> None:
    # RFC 6120 §6.5.8
    client = await clients.stream()
    mechanism = client.choose()
    with pytest.raises(SaslFailed) as failure:
        await client.sasl(mechanism, first)
    assert failure.value.condition in ("malformed-request", "not-authorized", "invalid-authzid")


async def test_wrong_channel_binding_header_in_final_fails(clients: Clients) -> None:
    # RFC 5802 §6: c= repeats the gs2 header
    client = await clients.stream()
    scram = exchange(client)
    scram.cbind = b"y,,"
    assert await refused(client, scram) in ("not-authorized", "malformed-request")


async def test_wrong_nonce_in_final_fails(clients: Clients) -> None:
    client = await clients.stream()
    scram = exchange(client)
    scram.final_nonce = scram.nonce + "somethingelse"
    assert await refused(client, scram) in ("not-authorized", "malformed-request")


@pytest.mark.deviates(**PLUS)
async def test_wrong_channel_binding_data_fails(clients: Clients) -> None:
    client = await clients.stream()
    scram = exchange(client, "SCRAM-SHA-256-PLUS", cb_type="tls-server-end-point")
    scram.cb_data = b"\0" * 32
    assert await refused(client, scram) == "not-authorized"


@pytest.mark.deviates(**PLUS)
@pytest.mark.parametrize("flag", ["n,,", "y,,", "p=tls-unique,,", "p=nonsense,,"])
async def test_plus_mechanism_without_a_known_binding_fails(clients: Clients, flag: str) -> None:
    client = await clients.stream()
    scram = exchange(client, "SCRAM-SHA-256-PLUS", gs2=flag)
    assert await refused(client, scram) in ("not-authorized", "malformed-request")


@pytest.mark.parametrize(
    "message",
    [b"", b"user", b"\0user", b"\0\0", b"\0user\0", b"\0user\0p\0q", b"\xff\0user\0pw"],
    ids=repr,
)
async def test_malformed_plain_fails(clients: Clients, message: bytes) -> None:
    # attack 9: NUL octets, empty passwords
    client = await clients.stream()
    with pytest.raises(SaslFailed) as failure:
        await client.sasl("PLAIN", message)
    assert failure.value.condition in (
        "malformed-request",
        "not-authorized",
        "invalid-authzid",
        "incorrect-encoding",
    )


async def test_response_without_auth_is_refused(clients: Clients) -> None:
    # attack 11: messages out of order
    client = await clients.stream()
    client.send(E("response", ns.SASL, "AA=="))
    answer = await client.next()
    assert answer.name in ("failure", "error")


async def test_second_auth_while_one_runs_never_succeeds(clients: Clients) -> None:
    client = await clients.stream()
    scram = exchange(client)
    await client.sasl(scram.mechanism, scram.first())
    client.send(E("auth", ns.SASL, b64encode(scram.first()).decode(), mechanism=scram.mechanism))
    answer = await client.next()
    assert answer.name in ("failure", "error", "challenge")


async def test_auth_after_success_is_refused(clients: Clients) -> None:
    # RFC 6120 §6.3.5: one authentication a stream
    client = await clients.bound()
    client.send(E("auth", ns.SASL, b64encode(plain("x", "y")).decode(), mechanism="PLAIN"))
    answer = await client.next()
    assert answer.name in ("failure", "error")
    assert answer.name != "success"


async def test_no_mechanisms_after_success(clients: Clients) -> None:
    client = await clients.authenticated()
    assert not client.features.has("mechanisms", ns.SASL)
    assert client.features.has("bind", ns.BIND)


# -- ANONYMOUS (XEP-0175) and EXTERNAL (XEP-0178) --------------------------------


@pytest.mark.ours("ANONYMOUS by configuration")
@pytest.mark.settings(auth={"mechanisms": ["ANONYMOUS", "SCRAM-SHA-256"]})
async def test_anonymous_gets_a_random_address(clients: Clients) -> None:
    # XEP-0175, example 4 on
    jids = set()
    for _ in range(2):
        client = await clients.stream()
        await client.sasl("ANONYMOUS", b"")
        await client.open_stream()
        jids.add((await client.bind()).partition("/")[0])
    assert len(jids) == 2
    assert all(len(j.partition("@")[0]) >= 16 for j in jids)


async def test_anonymous_is_off_by_default(clients: Clients) -> None:
    client = await clients.stream()
    assert "ANONYMOUS" not in client.mechanisms
    with pytest.raises(SaslFailed):
        await client.sasl("ANONYMOUS", b"")


async def test_external_is_not_offered_without_a_certificate(clients: Clients) -> None:
    client = await clients.stream()
    assert "EXTERNAL" not in client.mechanisms
    with pytest.raises(SaslFailed):
        await client.sasl("EXTERNAL", b"")


@pytest.fixture
def external(servers: Servers) -> Server:
    """A server that asks clients for certificates."""
    return servers(Settings(client_ca=True))


async def _with_certificate(server: Server, label: str, *jids: str, days: int = 20) -> Client:
    pair = server.authority.user(label, *jids, days=days)
    client = Client(server.endpoint(), None, label)
    client.identity = pair
    await client.negotiate()
    return client


@pytest.mark.ours("client certificates need our own set-up")
async def test_external_with_one_jid_logs_in(external: Server) -> None:
    # XEP-0178 #c2s: empty authorization identity
    account = external.account()
    client = await _with_certificate(external, "one", account.jid)
    try:
        assert client.mechanisms[0] == "EXTERNAL" or "EXTERNAL" in client.mechanisms
        await client.sasl("EXTERNAL", b"")
        await client.open_stream()
        await client.bind()
        assert client.bare == account.jid
    finally:
        client.abort()


@pytest.mark.ours("client certificates need our own set-up")
async def test_external_with_two_jids_needs_an_authzid(external: Server) -> None:
    # XEP-0178 #c2s step 9: more than one JID
    a, b = external.account(), external.account()
    client = await _with_certificate(external, "two", a.jid, b.jid)
    try:
        with pytest.raises(SaslFailed) as failure:
            await client.sasl("EXTERNAL", b"")
        assert failure.value.condition in ("invalid-authzid", "not-authorized")
        await client.sasl("EXTERNAL", b.jid.encode())
        await client.open_stream()
        await client.bind()
        assert client.bare == b.jid
    finally:
        client.abort()


@pytest.mark.ours("client certificates need our own set-up")
async def test_external_as_somebody_else_is_refused(external: Server) -> None:
    a, b = external.account(), external.account()
    client = await _with_certificate(external, "else", a.jid)
    try:
        with pytest.raises(SaslFailed) as failure:
            await client.sasl("EXTERNAL", b.jid.encode())
        assert failure.value.condition in ("invalid-authzid", "not-authorized")
    finally:
        client.abort()


@pytest.mark.ours("client certificates need our own set-up")
async def test_password_login_still_works_without_a_certificate(external: Server) -> None:
    account = external.account()
    client = Client(external.endpoint(), account)
    try:
        await client.login()
        assert "EXTERNAL" not in client.mechanisms
    finally:
        client.abort()


@pytest.mark.ours("client certificates need our own set-up")
async def test_expired_certificate_gives_no_external(external: Server) -> None:
    pair = external.authority.user("expired", external.account().jid, days=-1)
    client = Client(external.endpoint(), None, "expired")
    client.identity = pair
    try:
        await client.negotiate()
        assert "EXTERNAL" not in client.mechanisms
        await client.sasl("EXTERNAL", b"")
    except (SaslFailed, StreamClosed, OSError):
        pass  # a refused handshake is as good
    else:
        pytest.fail("an expired certificate was believed")
    finally:
        client.abort()


@pytest.mark.ours("client certificates need our own set-up")
async def test_certificate_of_another_authority_is_not_believed(
    external: Server, tmp_path: Path
) -> None:
    account = external.account()
    stranger = Authority(tmp_path / "stranger", "Somebody else")
    client = Client(external.endpoint(), None, "stranger")
    client.identity = stranger.user("stranger", account.jid)
    try:
        await client.negotiate()
        assert "EXTERNAL" not in client.mechanisms
        await client.sasl("EXTERNAL", b"")
    except (SaslFailed, StreamClosed, OSError):
        pass  # a refused handshake is as good
    else:
        pytest.fail("anybody's certificate was believed")
    finally:
        client.abort()


@pytest.mark.ours("client certificates need our own set-up")
@pytest.mark.parametrize("jid", ["nobody-here@{}", "{}", "someone@elsewhere.example"])
async def test_certificate_without_an_account_here_is_refused(external: Server, jid: str) -> None:
    # XEP-0178 #c2s: the JID must be that of an account of this domain
    client = await _with_certificate(external, "none", jid.format(external.domain))
    try:
        with pytest.raises(SaslFailed) as failure:
            await client.sasl("EXTERNAL", b"")
        assert failure.value.condition in ("not-authorized", "invalid-mechanism")
    finally:
        client.abort()


@pytest.mark.ours("client certificates need our own set-up")
async def test_external_by_direct_tls_with_a_long_address(external: Server) -> None:
    # RFC 7622 §3.1: a localpart takes up to 1,023 bytes
    account = external.named("l" * 1000, external.domain)
    external.create([account])
    client = Client(external.endpoint("direct"), None, "long")
    client.identity = external.authority.user("long", account.jid)
    try:
        await client.negotiate()
        await client.sasl("EXTERNAL", account.jid.encode())
        await client.open_stream()
        await client.bind()
        assert client.bare == account.jid
    finally:
        client.abort()


async def test_two_logins_at_once_do_not_mix(clients: Clients) -> None:
    made = await asyncio.gather(*(clients.bound() for _ in range(8)))
    assert len({c.bare for c in made}) == 8
