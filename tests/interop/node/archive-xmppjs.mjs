// SPDX-License-Identifier: Apache-2.0
// @xmpp/client pages through an archive of 10,000 messages by every query. Over WebSocket, since
// over TCP it breaks letters of several bytes whose bytes came in two reads.
import { client, xml } from "@xmpp/client";
import { WebSocket } from "ws";
import { assert, environment, main, withDeadline } from "./lib.mjs";
import { SEARCHES, complete, history, ids, same, third } from "./history.mjs";

globalThis.WebSocket ??= WebSocket;

const { domain, address, ports, accounts } = environment;
const MAM = "urn:xmpp:mam:2";
const RSM = "http://jabber.org/protocol/rsm";
const TEXT = "{urn:xmpp:fulltext:0}fulltext";
const LONG_MS = 90_000;
const ROUNDS = 12;
const A_ROUND = 100;

async function online(account, resource) {
  const made = client({
    service: `wss://${address}:${ports.https}/ws`,
    domain,
    username: account.user,
    password: account.password,
    resource,
  });
  made.on("error", () => {});
  made.timeout = 20_000;
  await withDeadline(made.start(), "session");
  return made;
}

const stop = (...clients) => Promise.all(clients.map((c) => withDeadline(c.stop(), "end of the session")));

async function as(account, resource, body) {
  const c = await online(account, resource);
  try {
    await body(c);
  } finally {
    await settled(c);
    await stop(c);
  }
}

// Waits until nothing is under way: no stanza, and no acknowledgement that is asked for.
const settled = (c) => c.iqCaller.request(xml("iq", { type: "get", to: domain }, xml("ping", "urn:xmpp:ping")));

// Without a word; @xmpp/client would come back by itself otherwise.
async function cut(c) {
  c.reconnect.stop();
  const gone = new Promise((resolve) => c.once("disconnect", resolve));
  const raw = c.socket.socket ?? c.socket;
  (raw.terminate ?? raw.close).call(raw);
  await withDeadline(gone, "end of the connection");
}

const owner = (body) => as(history.owner, "archive", body);

function form(fields) {
  const row = ([name, value]) =>
    xml("field", { var: name }, ...[value].flat().map((one) => xml("value", {}, one)));
  const type = xml("field", { var: "FORM_TYPE", type: "hidden" }, xml("value", {}, MAM));
  return xml("x", { xmlns: "jabber:x:data", type: "submit" }, type, ...Object.entries(fields).map(row));
}

function row(result) {
  const forwarded = result.getChild("forwarded", "urn:xmpp:forward:0");
  const message = forwarded.getChild("message", "jabber:client");
  return {
    id: result.attrs.id,
    at: forwarded.getChild("delay", "urn:xmpp:delay").attrs.stamp,
    body: message.getChildText("body"),
    message,
  };
}

let queries = 0;

async function ask(c, { fields, rsm = {}, flip = false } = {}) {
  const queryid = `q${++queries}`;
  const rows = [];
  const collect = (stanza) => {
    const result = stanza.is("message") && stanza.getChild("result", MAM);
    if (result && result.attrs.queryid === queryid) rows.push(row(result));
  };
  c.on("stanza", collect);
  try {
    const set = xml("set", { xmlns: RSM }, ...Object.entries(rsm).map(([k, v]) => xml(k, {}, String(v))));
    const parts = [fields && form(fields), set, flip && xml("flip-page")].filter(Boolean);
    const iq = xml("iq", { type: "set" }, xml("query", { xmlns: MAM, queryid }, ...parts));
    const fin = (await c.iqCaller.request(iq, 30_000)).getChild("fin", MAM);
    const part = (name) => fin.getChild("set", RSM).getChildText(name);
    const [first, last, count] = ["first", "last", "count"].map(part);
    return { rows, first, last, count, complete: fin.attrs.complete === "true", stable: fin.attrs.stable !== "false" };
  } finally {
    c.removeListener("stanza", collect);
  }
}

// Everything that a query finds, by pages: from the oldest on, or from the newest back.
async function all(c, { fields, max = 250, back = false, flip = false } = {}) {
  let found = [];
  let rsm = back ? { max, before: "" } : { max };
  for (;;) {
    const page = await ask(c, { fields, rsm, flip });
    const outer = flip ? [page.last, page.first] : [page.first, page.last];
    if (page.rows.length) same(ids([page.rows[0], page.rows.at(-1)]), outer, "ends of a page");
    found = back && !flip ? [...page.rows, ...found] : [...found, ...page.rows];
    if (page.complete) return found;
    assert(page.rows.length, "an empty page that is not the last");
    rsm = back ? { max, before: page.first } : { max, after: page.last };
  }
}

let known;
const everything = async (c) => (known ??= await all(c));
const between = (rows, jid) =>
  rows.filter((r) => [r.message.attrs.from, r.message.attrs.to].some((a) => a.startsWith(`${jid}/`)));

const scenarios = {
  "forwards": () => owner(async (c) => complete(await everything(c))),

  "backwards": () =>
    owner(async (c) => same(ids(await all(c, { back: true })), ids(await everything(c)), "backwards")),

  "newest first by flipped pages": () =>
    owner(async (c) => {
      const rows = await all(c, { back: true, flip: true });
      same(ids(rows), ids(await everything(c)).reverse(), "flipped");
    }),

  "with each person": () =>
    owner(async (c) => {
      const rows = await everything(c);
      for (const peer of history.peers) {
        const found = await all(c, { fields: { with: peer.jid } });
        assert(found.length === peer.in + peer.out, `${peer.name}: ${found.length}`);
        same(ids(found), ids(between(rows, peer.jid)), peer.name);
        const { count } = await ask(c, { fields: { with: peer.jid }, rsm: { max: 0 } });
        assert(count === String(found.length), `count is ${count}`);
      }
    }),

  "between two moments": () =>
    owner(async (c) => {
      const rows = await everything(c);
      const { start, end, rows: expected } = third(rows);
      same(ids(await all(c, { fields: { start, end } })), ids(expected), "between");
      const late = rows.filter((r) => r.at >= end);
      same(ids(await all(c, { fields: { start: end }, back: true })), ids(late), "since");
      const jid = history.peers[1].jid;
      const narrow = await all(c, { fields: { start, end, with: jid }, back: true, max: 77 });
      same(ids(narrow), ids(between(expected, jid)), "between, with");
    }),

  "between two ids": () =>
    owner(async (c) => {
      const rows = ids(await everything(c));
      const fields = { "after-id": rows[1999], "before-id": rows[7000] };
      same(ids(await all(c, { fields })), rows.slice(2000, 7000), "forwards");
      same(ids(await all(c, { fields, back: true })), rows.slice(2000, 7000), "backwards");
      const page = await ask(c, { rsm: { max: 10, after: rows[4999] } });
      same(ids(page.rows), rows.slice(5000, 5010), "one page behind an id");
    }),

  "messages by their ids": () =>
    owner(async (c) => {
      const wanted = ids(await everything(c)).filter((_, i) => i % 97 === 5);
      same(ids(await all(c, { fields: { ids: wanted }, max: 40 })), wanted, "ids");
    }),

  "full text": () =>
    owner(async (c) => {
      const rows = await everything(c);
      const stable = async () => (await ask(c, { fields: { [TEXT]: "amber" }, rsm: { max: 1 } })).stable;
      while (!(await stable())) await new Promise((resolve) => setTimeout(resolve, 200));
      for (const [text, fits] of SEARCHES) {
        const expected = rows.filter((r) => fits(r.body));
        same(ids(await all(c, { fields: { [TEXT]: text } })), ids(expected), text);
        const jid = history.peers[0].jid;
        const { start, end } = third(rows);
        const narrow = between(expected, jid).filter((r) => r.at >= start && r.at <= end);
        const found = await all(c, { fields: { [TEXT]: text, with: jid, start, end }, back: true, max: 30 });
        same(ids(found), ids(narrow), `${text}, with, between`);
      }
    }),

  "a client that comes and goes sees everything once": async () => {
    const writer = await online(accounts[1], "writer");
    const to = `${accounts[0].user}@${domain}`;
    // Every id of the archive that it has been told, and what it shows to its user.
    const subject = `again ${Math.random()}`;
    const places = new Set();
    const shown = [];
    let last;
    const take = (id, body) => {
      places.add(id);
      last = id;
      if (body?.startsWith(subject)) shown.push(body);
    };
    const fresh = ([id]) => !places.has(id);
    const sync = async (c) => {
      for (let done = false; !done; ) {
        const page = await ask(c, { rsm: last ? { max: 30, after: last } : { max: 250 } });
        const rows = page.rows.map((r) => [r.id, r.body]);
        assert(rows.every(fresh), "a page has what came before its id");
        rows.forEach((r) => take(...r));
        done = page.complete;
      }
    };
    for (let round = 0; round < ROUNDS; round++) {
      const c = await online(accounts[0], "reader");
      // What comes while it catches up may be in the pages, too; so it waits.
      let held = [];
      c.on("stanza", (s) => {
        const place = s.is("message") && s.getChildren("stanza-id").find((e) => e.attrs.by === to);
        if (!place) return;
        const one = [place.attrs.id, s.getChildText("body")];
        if (held) held.push(one);
        else if (fresh(one)) take(...one);
      });
      await c.send(xml("presence"));
      for (let i = round * A_ROUND; i < (round + 1) * A_ROUND; i++) {
        await writer.send(xml("message", { to, type: "chat", id: `a${i}` }, xml("body", {}, `${subject} ${i}`)));
      }
      await sync(c);
      held.filter(fresh).forEach((one) => take(...one));
      held = null;
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 60));
      if (round % 2) {
        await cut(c);
      } else {
        await settled(c);
        await stop(c);
      }
    }
    await settled(writer);
    await as(accounts[0], "reader", (c) => sync(c));
    await stop(writer);
    same(shown, Array.from({ length: ROUNDS * A_ROUND }, (_, n) => `${subject} ${n}`), "caught up");
  },

  // Last: @xmpp/client acknowledges as it closes, and throws where anything comes behind the end.
  "nothing comes behind the end of the stream": async () => {
    for (let i = 0; i < 5; i++) {
      const c = await online(history.owner, "archive");
      await ask(c, { rsm: { max: 250 } });
      await stop(c);
    }
  },
};

await main(scenarios, LONG_MS);
