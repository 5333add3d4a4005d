// The server's questions and answers. Latest wins: of many changes only the newest is answered.

const token = document.querySelector('meta[name="moesim-token"]')?.content ?? "";

/** The server said no: `faults` name fields; `status` is HTTP's. */
export class Refused extends Error {
  constructor(message, status, { faults, suggestions }) {
    super(message);
    this.name = "Refused";
    this.status = status;
    this.faults = Array.isArray(faults) ? faults : [];
    this.suggestions = Array.isArray(suggestions) ? suggestions : [];
  }
}

/** The server cannot be reached. */
export class Gone extends Error {}

async function send(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, credentials: "same-origin", redirect: "error" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Gone("the server does not answer");
  }
  if (response.ok) return response;
  if (response.status === 503) throw new Gone("the server is busy");
  let body = {};
  try {
    body = await response.json();
  } catch {
    // An error without words of its own: its number is said below.
  }
  throw new Refused(String(body.error ?? `The server refused (${response.status}).`), response.status, body);
}

const post = (path, body, signal) =>
  send(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Moesim": token },
    body: JSON.stringify(body),
    signal,
  });

export const catalogue = async () =>
  (await send("/api/catalogue", { headers: { "X-Moesim": token } })).json();

export const answer = async (scenario, signal) => (await post("/api/answer", scenario, signal)).json();

/** Other layouts of the same devices, asked again while the server has more to consider: `onrows(rows, done)`. */
export async function alternatives(scenario, signal, onrows) {
  for (let turn = 0; turn < 30; turn++) {
    const { layouts, considered, total } = await (await post("/api/alternatives", scenario, signal)).json();
    onrows(layouts, considered >= total);
    if (considered >= total) return;
  }
}

/** A file to save: `{blob, name}`. */
async function file(path, body, otherwise) {
  const response = await post(path, body);
  const said = /filename="([^"/\\]+)"/.exec(response.headers.get("Content-Disposition") ?? "");
  return { blob: await response.blob(), name: said ? said[1] : otherwise };
}

export const exportReport = (scenarios, labels) =>
  file("/api/export/report", { scenarios, labels }, "moesim-report.html");

export const exportPlan = (scenario, format) =>
  file("/api/export/plan", { scenario, format }, `plan-${format}.json`);

export const uploadTrace = async (given) =>
  (
    await send(`/api/traces?name=${encodeURIComponent(given.name)}`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream", "X-Moesim": token },
      body: given,
    })
  ).json();

/**
 * Ask for the newest of many scenarios: one question at a time; a newer one waits `patience` ms for the older
 * answer, which is still worth showing, and then the older one is dropped. A lost server is asked
 * again, later and later.
 */
export class Asker {
  constructor({ onanswer, onrefused, onbusy, ongone, patience = 300 }) {
    Object.assign(this, { onanswer, onrefused, onbusy, ongone, patience });
    this.waiting = null;
    this.running = null;
    this.tries = 0;
  }

  ask(scenario) {
    this.waiting = scenario;
    clearTimeout(this.again);
    if (!this.running) this.next();
    else this.impatient ??= setTimeout(() => this.running?.abort(), this.patience);
  }

  async next() {
    const scenario = this.waiting;
    this.waiting = null;
    const control = (this.running = new AbortController());
    const busy = setTimeout(() => this.onbusy(true), 150);
    const started = performance.now();
    try {
      const body = await answer(scenario, control.signal);
      this.tries = 0;
      this.onanswer(body, scenario, performance.now() - started, this.waiting === null);
    } catch (error) {
      if (error instanceof Refused) {
        this.tries = 0;
        this.onrefused(error, scenario);
      } else if (error instanceof Gone) {
        const delay = Math.min(8000, 500 * 2 ** this.tries++);
        this.ongone(delay);
        this.waiting ??= scenario;
        this.again = setTimeout(() => this.next(), delay);
      } else if (error.name !== "AbortError") {
        throw error;
      }
    } finally {
      clearTimeout(busy);
      clearTimeout(this.impatient);
      this.impatient = null;
      this.running = null;
      if (this.waiting && !this.tries) this.next();
      else this.onbusy(false);
    }
  }
}
