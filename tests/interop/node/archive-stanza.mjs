// SPDX-License-Identifier: Apache-2.0
// stanza pages through an archive of 10,000 messages and sets preferences.
import { createClient } from "stanza";
import { WebSocket } from "ws";
import { assert, environment, event, main, withDeadline } from "./lib.mjs";
import { SEARCHES, complete, history, ids, same, third } from "./history.mjs";

globalThis.WebSocket ??= WebSocket;

const { domain, address, ports, accounts } = environment;
const TEXT = "{urn:xmpp:fulltext:0}fulltext";
const LONG_MS = 90_000;

async function online(account, resource) {
  const made = createClient({
    jid: `${account.user}@${domain}`,
    password: account.password,
    resource,
    autoReconnect: false,
    timeout: 30,
    transports: { websocket: `wss://${address}:${ports.https}/ws`, bosh: false },
  });
  const started = event(made, "session:started");
  made.connect();
  await started;
  return made;
}

async function as(account, resource, body) {
  const c = await online(account, resource);
  try {
    await body(c);
  } finally {
    const gone = event(c, "disconnected");
    c.disconnect();
    await gone;
  }
}

const owner = (body) => as(history.owner, "archive", body);

// Options of searchHistory that stanza changes are not used twice.
const options = ({ fields = {}, rsm, ...rest }) => ({
  ...rest,
  paging: rsm,
  form: { type: "submit", fields: Object.entries(fields).map(([name, value]) => ({ name, value })) },
});

async function ask(c, query) {
  const { results, paging, complete: isComplete, stable } = await c.searchHistory(options(query));
  const rows = results.map(({ id, item }) => ({
    id,
    at: item.delay.timestamp.toISOString(),
    body: item.message.body,
    message: item.message,
  }));
  return { rows, paging, complete: isComplete === true, stable: stable !== false };
}

async function all(c, { max = 250, back = false, ...query } = {}) {
  let found = [];
  let rsm = back ? { max, before: "" } : { max };
  for (;;) {
    const page = await ask(c, { ...query, rsm });
    found = back ? [...page.rows, ...found] : [...found, ...page.rows];
    if (page.complete) return found;
    assert(page.rows.length, "an empty page that is not the last");
    rsm = back ? { max, before: page.paging.first } : { max, after: page.paging.last };
  }
}

let known;
const everything = async (c) => (known ??= await all(c));
const between = (rows, jid) =>
  rows.filter((r) => [r.message.from, r.message.to].some((a) => a.startsWith(`${jid}/`)));

const scenarios = {
  "forwards": () => owner(async (c) => complete(await everything(c))),

  "backwards": () =>
    owner(async (c) => same(ids(await all(c, { back: true })), ids(await everything(c)), "backwards")),

  "with one person between two moments": () =>
    owner(async (c) => {
      const rows = await everything(c);
      const { jid } = history.peers[0];
      same(ids(await all(c, { with: jid })), ids(between(rows, jid)), "with");
      const { start, end, rows: expected } = third(rows);
      const query = { start: new Date(start), end: new Date(end) };
      same(ids(await all(c, query)), ids(expected), "between");
      same(ids(await all(c, { ...query, with: jid })), ids(between(expected, jid)), "both");
    }),

  "ids and full text by the form's fields": () =>
    owner(async (c) => {
      const form = await withDeadline(c.getHistorySearchForm(), "form");
      const names = form.fields.map((f) => f.name);
      for (const name of ["with", "start", "end", "before-id", "after-id", "ids", TEXT]) {
        assert(names.includes(name), `no field ${name} in ${names}`);
      }
      const rows = await everything(c);
      const some = ids(rows).slice(2000, 3000);
      const fields = { "after-id": rows[1999].id, "before-id": rows[3000].id };
      same(ids(await all(c, { fields })), some, "between two ids");
      while (!(await ask(c, { fields: { [TEXT]: "amber" }, rsm: { max: 1 } })).stable) {
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
      for (const [text, fits] of SEARCHES) {
        const expected = rows.filter((r) => fits(r.body));
        same(ids(await all(c, { fields: { [TEXT]: text } })), ids(expected), text);
      }
    }),

  "preferences": () =>
    as(accounts[2], "prefs", async (c) => {
      const before = await c.getHistoryPreferences();
      assert(before.default === "always", `default is ${before.default}`);
      const never = [`secret@${domain}`];
      const always = [`friend@${domain}`];
      await c.setHistoryPreferences({ default: "roster", always, never });
      const after = await c.getHistoryPreferences();
      assert(after.default === "roster", `default is ${after.default}`);
      same(after.always, always, "always");
      same(after.never, never, "never");
      await c.setHistoryPreferences({ default: "always", always: [], never: [] });
    }),
};

await main(scenarios, LONG_MS);
