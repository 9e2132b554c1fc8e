// SPDX-License-Identifier: Apache-2.0
// stanza (Stanza.io) over WebSocket.
import { createClient } from "stanza";
import { WebSocket } from "ws";
import { assert, environment, event, main, withDeadline } from "./lib.mjs";

globalThis.WebSocket ??= WebSocket;

const { domain, address, ports, accounts } = environment;

function make(account, resource, more = {}) {
  return createClient({
    jid: `${account.user}@${domain}`,
    password: account.password,
    resource,
    autoReconnect: false,
    transports: { websocket: `wss://${address}:${ports.https}/ws`, bosh: false },
    ...more,
  });
}

async function online(account, resource, more) {
  const made = make(account, resource, more);
  const started = event(made, "session:started");
  made.connect();
  await started;
  return made;
}

async function stop(...clients) {
  for (const c of clients) {
    const gone = event(c, "disconnected");
    c.disconnect();
    await gone;
  }
}

const available = async (c) => {
  const own = event(c, "presence", (p) => p.from === c.jid);
  c.sendPresence();
  await own;
};

const scenarios = {
  "login and logout": async () => {
    const c = await online(accounts[0], "res");
    assert(c.jid === `${accounts[0].user}@${domain}/res`, `jid is ${c.jid}`);
    await stop(c);
  },

  "wrong password": async () => {
    const c = make({ ...accounts[0], password: "wrong" });
    const failed = event(c, "auth:failed");
    c.connect();
    await failed;
    c.disconnect();
  },

  "roster, disco, ping, time, version and vCard": async () => {
    const c = await online(accounts[0], "res");
    const roster = await withDeadline(c.getRoster(), "roster");
    assert(Array.isArray(roster.items), "no roster");
    const pushed = event(c, "roster:update");
    await c.updateRosterItem({ jid: `contact@${domain}`, name: "Contact" });
    assert((await pushed).roster.items[0].jid === `contact@${domain}`, "wrong push");
    c.config.rosterVer = ""; // the whole roster, not what has changed
    const again = await c.getRoster();
    assert(again.items.some((i) => i.jid === `contact@${domain}`), "item not kept");
    const info = await c.getDiscoInfo(domain);
    assert(info.features.includes("urn:xmpp:ping"), "no ping");
    await c.ping(domain);
    assert((await c.getSoftwareVersion(domain)).name, "no version");
    assert((await c.getTime(domain)).utc, "no time");
    await c.publishVCard({ fullName: "Romeo Montague" });
    assert((await c.getVCard(c.jid.split("/")[0])).fullName === "Romeo Montague", "no vCard");
    await stop(c);
  },

  "presence and chat both ways": async () => {
    const one = await online(accounts[0], "one");
    const two = await online(accounts[1], "two");
    await Promise.all([available(one), available(two)]);
    for (const [a, b] of [[one, two], [two, one]]) {
      const seen = event(b, "presence", (p) => p.from === a.jid);
      a.sendPresence({ to: b.jid });
      await seen;
      const got = event(b, "chat");
      a.sendMessage({ to: b.jid, type: "chat", body: "ž <&> 💬" });
      const message = await got;
      assert(message.body === "ž <&> 💬" && message.from === a.jid, "message changed");
    }
    await stop(one, two);
  },

  "receipts, chat states and markers": async () => {
    const one = await online(accounts[0], "one");
    const two = await online(accounts[1], "two");
    await Promise.all([available(one), available(two)]);
    const receipt = event(one, "receipt");
    const id = one.sendMessage({
      to: two.jid, type: "chat", body: "x", receipt: { type: "request" }, chatState: "active",
    });
    assert((await receipt).receipt.id === id, "wrong receipt");
    await stop(one, two);
  },

  carbons: async () => {
    const one = await online(accounts[0], "one");
    const other = await online(accounts[0], "other");
    const peer = await online(accounts[1], "peer");
    await Promise.all([one, other, peer].map(available));
    await other.enableCarbons();
    const copy = event(other, "carbon:sent");
    one.sendMessage({ to: peer.jid, type: "chat", body: "copied" });
    assert((await copy).carbon.forward.message.body === "copied", "wrong copy");
    await stop(one, other, peer);
  },

  blocking: async () => {
    const c = await online(accounts[0], "one");
    await c.block(`spam@${domain}`);
    assert((await c.getBlocked()).jids.includes(`spam@${domain}`), "not blocked");
    await c.unblock(`spam@${domain}`);
    await stop(c);
  },

  "stream management resumes": async () => {
    const one = await online(accounts[0], "resumed", { useStreamManagement: true });
    const peer = await online(accounts[1], "peer");
    await available(one);
    assert(one.sm.started && one.sm.id, "stream management has not been enabled");
    // stanza never recovers from a write to a socket that has just died, so none may be due
    await one.ping(domain);
    await new Promise((resolve) => setTimeout(resolve, 500));
    const lost = event(one, "disconnected");
    one.transport.socket.terminate();
    await lost;
    peer.sendMessage({ to: `${accounts[0].user}@${domain}/resumed`, type: "chat", body: "while away" });
    await peer.ping(domain);
    const resumed = event(one, "stream:management:resumed");
    const got = event(one, "chat");
    one.connect();
    await resumed;
    assert((await got).body === "while away", "wrong message");
    await stop(one, peer);
  },
};

await main(scenarios);
