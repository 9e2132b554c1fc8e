// SPDX-License-Identifier: Apache-2.0
// @xmpp/client over STARTTLS, direct TLS and WebSocket.
import { client, xml, jid } from "@xmpp/client";
import { WebSocket } from "ws";
import { assert, environment, event, main, withDeadline } from "./lib.mjs";

globalThis.WebSocket ??= WebSocket;

const { domain, address, ports, accounts } = environment;

const SERVICES = {
  starttls: `xmpp://${address}:${ports.c2s}`,
  direct: `xmpps://${address}:${ports.direct}`,
  websocket: `wss://${address}:${ports.https}/ws`,
};

function make(transport, account, resource) {
  const made = client({
    service: SERVICES[transport],
    domain,
    username: account.user,
    password: account.password,
    resource,
  });
  made.on("error", () => {});
  made.timeout = 10_000;
  return made;
}

async function online(transport, account, resource) {
  const made = make(transport, account, resource);
  await withDeadline(made.start(), "session");
  return made;
}

async function pair(transport, body) {
  const [one, two] = await Promise.all([
    online(transport, accounts[0], `one-${transport}`),
    online(transport, accounts[1], `two-${transport}`),
  ]);
  try {
    await body(one, two);
  } finally {
    await Promise.all([one, two].map((c) => withDeadline(c.stop(), "end of the session")));
  }
}

const available = async (c) => {
  const own = event(c, "stanza", (s) => s.is("presence") && s.attrs.from === c.jid.toString());
  await c.send(xml("presence"));
  await own;
};

const scenarios = {};
for (const transport of Object.keys(SERVICES)) {
  scenarios[`${transport}: login and logout`] = async () => {
    const c = await online(transport, accounts[0], "res");
    assert(c.jid.toString() === `${accounts[0].user}@${domain}/res`, `jid is ${c.jid}`);
    await withDeadline(c.stop(), "offline");
    assert(c.status === "offline", `status is ${c.status}`);
  };

  scenarios[`${transport}: wrong password`] = async () => {
    const c = make(transport, { ...accounts[0], password: "wrong" });
    c.reconnect.stop();
    const error = await withDeadline(c.start().then(() => null, (e) => e), "failure");
    assert(error?.condition === "not-authorized", `got ${error}`);
    await c.stop().catch(() => {});
  };

  scenarios[`${transport}: roster, version, ping and disco`] = async () =>
    pair(transport, async (one) => {
      const { iqCaller } = one;
      const roster = await iqCaller.get(xml("query", "jabber:iq:roster"));
      assert(roster, "no roster");
      await iqCaller.set(
        xml("query", "jabber:iq:roster", xml("item", { jid: `friend@${domain}`, name: "Friend" })),
      );
      const again = await iqCaller.get(xml("query", "jabber:iq:roster"));
      assert(
        again.getChildren("item").some((i) => i.attrs.jid === `friend@${domain}`),
        "item not kept",
      );
      await iqCaller.request(xml("iq", { type: "get", to: domain }, xml("ping", "urn:xmpp:ping")));
      const info = await iqCaller.get(xml("query", "http://jabber.org/protocol/disco#info"), domain);
      assert(info.getChildren("feature").length > 5, "few features");
      const version = await iqCaller.get(xml("query", "jabber:iq:version"), domain);
      assert(version.getChildText("name"), "no version");
    });

  scenarios[`${transport}: presence and chat both ways`] = async () =>
    pair(transport, async (one, two) => {
      await Promise.all([available(one), available(two)]);
      for (const [a, b] of [[one, two], [two, one]]) {
        const seen = event(b, "stanza", (s) => s.is("presence") && s.attrs.from === a.jid.toString());
        await a.send(xml("presence", { to: b.jid.toString() }));
        await seen;
        const got = event(b, "stanza", (s) => s.is("message") && s.getChild("body"));
        await a.send(
          xml("message", { to: b.jid.bare().toString(), type: "chat" }, xml("body", {}, "ž <&> 💬")),
        );
        const message = await got;
        assert(message.getChildText("body") === "ž <&> 💬", "body changed");
        assert(jid(message.attrs.from).equals(a.jid), "wrong sender");
      }
    });

  scenarios[`${transport}: 200 messages in order`] = async () =>
    pair(transport, async (one, two) => {
      await available(two);
      const bodies = [];
      const done = new Promise((resolve) => {
        two.on("stanza", (s) => {
          if (s.is("message") && s.getChild("body")) bodies.push(s.getChildText("body"));
          if (bodies.length === 200) resolve();
        });
      });
      for (let i = 0; i < 200; i++) {
        await one.send(
          xml("message", { to: two.jid.toString(), type: "chat" }, xml("body", {}, String(i))),
        );
      }
      await withDeadline(done, "200 messages");
      assert(bodies.every((b, i) => b === String(i)), "order");
    });

  scenarios[`${transport}: carbons`] = async () => {
    const [one, other, peer] = await Promise.all([
      online(transport, accounts[0], "a"),
      online(transport, accounts[0], "b"),
      online(transport, accounts[1], "c"),
    ]);
    await Promise.all([one, other, peer].map(available));
    await other.iqCaller.set(xml("enable", "urn:xmpp:carbons:2"));
    const copy = event(other, "stanza", (s) => s.is("message") && s.getChild("sent", "urn:xmpp:carbons:2"));
    await one.send(
      xml("message", { to: peer.jid.toString(), type: "chat" }, xml("body", {}, "copied")),
    );
    const inner = (await copy).getChild("sent").getChild("forwarded").getChild("message");
    assert(inner.getChildText("body") === "copied", "wrong copy");
    await Promise.all([one, other, peer].map((c) => c.stop()));
  };

  scenarios[`${transport}: reconnection resumes the session`] = async () => {
    const one = await online(transport, accounts[0], "resumed");
    const peer = await online(transport, accounts[1], "peer");
    await available(one);
    assert(one.streamManagement.id, "stream management has not been enabled");
    const resumed = event(one.streamManagement, "resumed");
    const raw = one.socket.socket ?? one.socket;
    await peer.iqCaller.request(xml("iq", { type: "get", to: domain }, xml("ping", "urn:xmpp:ping")));
    (raw.terminate ?? raw.destroy ?? raw.close).call(raw);
    const got = event(one, "stanza", (s) => s.is("message") && s.getChild("body"));
    await peer.send(
      xml("message", { to: `${accounts[0].user}@${domain}/resumed`, type: "chat" }, xml("body", {}, "while away")),
    );
    await resumed;
    assert((await got).getChildText("body") === "while away", "wrong message");
    await Promise.all([one, peer].map((c) => c.stop()));
  };
}

await main(scenarios);
