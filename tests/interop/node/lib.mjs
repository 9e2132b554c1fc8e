// SPDX-License-Identifier: Apache-2.0
// What the scenarios share: steps with a deadline, and one JSON line each for the runner.

export const environment = JSON.parse(process.env.INTEROP);

const DEADLINE_MS = 15_000;

export function withDeadline(promise, what, ms = DEADLINE_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export function assert(condition, message) {
  if (!condition) throw new Error(message);
}

// Resolves with the first event of that name for which `fits` holds.
export function event(emitter, name, fits = () => true, ms = DEADLINE_MS) {
  let listener;
  const seen = new Promise((resolve) => {
    listener = (value) => {
      if (fits(value)) resolve(value);
    };
    emitter.on(name, listener);
  });
  return withDeadline(seen, name, ms).finally(() => emitter.removeListener(name, listener));
}

export function tell(id, outcome, text = "") {
  process.stdout.write(JSON.stringify({ id, outcome, text }) + "\n");
}

// Runs named scenarios one after another; `wanted` empty: all.
export async function main(scenarios, ms = 45_000) {
  process.on("unhandledRejection", (error) => process.stderr.write(`${error?.stack}\n`));
  // An exception that a client throws in a callback fails the scenario, not all that follow.
  let fail = () => {};
  process.on("uncaughtException", (error) => fail(error));
  const wanted = process.argv.slice(2);
  for (const [id, scenario] of Object.entries(scenarios)) {
    if (wanted.length > 0 && !wanted.includes(id)) continue;
    try {
      const thrown = new Promise((_, reject) => {
        fail = reject;
      });
      await withDeadline(Promise.race([scenario(), thrown]), "end of the scenario", ms);
      tell(id, "ok");
    } catch (error) {
      tell(id, "failed", String(error?.stack ?? error));
    }
  }
  process.exit(0);
}
