// SPDX-License-Identifier: Apache-2.0
// What must be in the long archive (see ../history.py), told without the archive's help.
import { assert, environment } from "./lib.mjs";

export const { history } = environment;

// Of every conversation and way: all messages, once, in the order they were sent.
export function complete(rows) {
  const expected = new Map();
  let total = 0;
  for (const peer of history.peers) {
    for (const way of ["in", "out"]) {
      const word = (n) => history.words[n % history.words.length];
      const bodies = Array.from({ length: peer[way] }, (_, n) => `${peer.name} ${way} ${n} ${word(n)}`);
      expected.set(`${peer.name} ${way}`, bodies);
      total += bodies.length;
    }
  }
  for (const [conversation, bodies] of expected) {
    same(rows.map((r) => r.body).filter((b) => b.startsWith(`${conversation} `)), bodies, conversation);
  }
  assert(rows.length === total, `${rows.length} messages instead of ${total}`);
  assert(new Set(rows.map((r) => r.id)).size === total, "an id stands there twice");
  assert(rows.every((r, i) => !i || rows[i - 1].at <= r.at), "stamps go back");
}

export function same(got, expected, what) {
  assert(got.length === expected.length, `${what}: ${got.length} instead of ${expected.length}`);
  const at = got.findIndex((value, i) => value !== expected[i]);
  assert(at < 0, `${what}: ${got[at]} instead of ${expected[at]} at ${at}`);
}

export const ids = (rows) => rows.map((r) => r.id);

// The middle third, its ends by time: neighbours of the same millisecond belong to it.
export function third(rows) {
  const [start, end] = [rows[Math.floor(rows.length / 3)].at, rows[Math.floor((rows.length * 2) / 3)].at];
  return { start, end, rows: rows.filter((r) => r.at >= start && r.at <= end) };
}

// A search, and whether it must find a body. "bordó" is the second word, "东京塔" the last.
export const SEARCHES = [
  ["BORDO", (body) => body.endsWith(" bordó")],
  ["dunkel*", (body) => body.endsWith(" dunkelgrün")],
  ["kent ecarlate", (body) => body.startsWith("kent ") && body.endsWith(" écarlate")],
  ['"fool out 5"', (body) => body.startsWith("fool out 5 ")],
  ["东京", (body) => body.endsWith(" 东京塔")],
  ["cordelia", () => false],
];
