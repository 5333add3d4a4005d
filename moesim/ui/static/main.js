// The page: one state, drawn from answers; the link, the history and the form all change it in one way.

import {
  Asker,
  Gone,
  Refused,
  alternatives,
  answer as askOnce,
  catalogue as readCatalogue,
  uploadTrace,
} from "./api.js";
import { drawAnswer, drawRefused, spoken } from "./answer.js";
import { drawPins } from "./compare.js";
import { controls } from "./controls.js";
import { drawCurve } from "./curves.js";
import { byId, copy, el, redraw, say } from "./dom.js";
import { drawLayouts } from "./others.js";
import { decode, encode } from "./permalink.js";
import { FIELDS, changed, pinned, renamed, same, taken, unpinned } from "./state.js";
import { drawTake } from "./take.js";
import { themes } from "./theme.js";
import { digits } from "./units.js";

const answers = new Map();
let catalogue;
let state;
let form;
let last = { field: "", at: 0 };
let depth = 0;
let quiet;
let resting;
let asking = 0;
let others = { control: null, layouts: [], done: false };

const asker = new Asker({
  onanswer(body, asked, trip, newest) {
    notice("gone", "");
    answers.set("", body);
    form.clear();
    if (body.faults?.length) form.fault(body.faults);
    draw();
    say(byId("served"), `answered in ${digits(body.server_ms, 2)} ms (${digits(trip, 2)} ms with the way)`);
    document.body.dataset.settled = newest ? "yes" : "no";
    document.body.dataset.answered = String(Number(document.body.dataset.answered ?? 0) + 1);
    clearTimeout(quiet);
    // Heard once the slider rests, not at every move.
    if (newest) quiet = setTimeout(() => say(byId("spoken"), spoken(body)), 700);
    if (newest) askOthers(asked);
  },
  onrefused(error, asked) {
    notice("gone", "");
    form.clear();
    // A server that was started anew knows neither this page nor its token.
    if (error.status === 401 || error.status === 403)
      notice("anew", "“moesim ui” was started anew: reload this page. The link keeps everything.");
    form.fault(error.faults.length ? error.faults : [{ message: error.message }]);
    drawRefused(error, (changes) => change(changes, true));
    byId("answer").classList.add("stale");
    askOthers(asked);
  },
  onbusy(busy) {
    byId("answer").setAttribute("aria-busy", String(busy));
    byId("answer").classList.toggle("busy", busy);
    if (busy) say(byId("served"), "computing ...");
  },
  ongone(delay) {
    byId("answer").classList.add("stale");
    notice(
      "gone",
      "The server does not answer; what is shown is its last answer. " +
        `Trying again in ${digits(delay / 1000, 2)} s. Is “moesim ui” still running?`,
    );
  },
});

function notice(key, text) {
  const home = byId("notices");
  const old = home.querySelector(`[data-notice="${key}"]`);
  if (!text) return old?.remove();
  if (old) return say(old.firstChild, text);
  return home.append(
    el(
      "div",
      { class: "notice", "data-notice": key },
      el("p", {}, text),
      el(
        "button",
        { type: "button", class: "small", "aria-label": "Dismiss", onclick: () => notice(key, "") },
        "×",
      ),
    ),
  );
}

function draw() {
  const body = answers.get("");
  byId("answer").classList.remove("stale");
  drawAnswer(body, catalogue, (changes) => change(changes, true));
  drawKept();
  // What is read and pressed only when the slider rests waits for that.
  clearTimeout(resting);
  resting = setTimeout(
    () => drawTake(answers.get(""), () => ({ state, answers })),
    document.body.dataset.answered ? 120 : 0,
  );
}

/** What pins change too. */
function drawKept() {
  drawPins(state, answers, catalogue, acts);
  drawCurve(state, answers, (by, load) =>
    change({ [by]: by === "concurrency" ? Math.round(load) : Number(load.toPrecision(3)) }, true),
  );
}

/** Take a new state: into the form, to the server, and, where it is settled, into the history. */
function put(next, { field = "", settled = true, travelled = false } = {}) {
  const pins = next.pins !== state?.pins;
  const current = !state || !same(next.current, state.current);
  state = next;
  form.show(state.current);
  if (current) {
    others.control?.abort();
    document.body.dataset.settled = "no";
    asker.ask(state.current);
  }
  if (settled && !travelled) record(field);
  if (pins) {
    drawKept();
    askPins();
  }
}

function change(changes, settled) {
  put(changed(state, changes, catalogue), { field: Object.keys(changes).join(), settled });
}

/** One step of history for each change; keys that hold on to a number make one. */
function record(field) {
  const link = `#${encode(state)}`;
  if (link === location.hash) return;
  const now = performance.now();
  const again = /^(whole|number)/.test(FIELDS[field]) && field === last.field && now - last.at < 1200;
  last = { field, at: now };
  if (!again) depth += 1;
  history[again ? "replaceState" : "pushState"]({ depth }, "", link);
  byId("undo").disabled = !depth;
}

const acts = {
  pin() {
    const next = pinned(state);
    const added = next.pins.find((p) => !state.pins.includes(p));
    if (added && answers.has("")) answers.set(added.label, answers.get(""));
    put(next);
  },
  unpin(label) {
    answers.delete(label);
    put(unpinned(state, label));
    byId("pin")?.focus({ preventScroll: true });
  },
  rename: (label, name) => put(renamed(state, label, name)),
  take: (label) => put(taken(state, label)),
};

/** Ask for other layouts once the slider rests; those of before stay until then. */
function askOthers(scenario) {
  others.control?.abort();
  const control = new AbortController();
  others = { ...others, control, done: false };
  const show = () => drawLayouts(others, scenario, (changes) => change(changes, true));
  setTimeout(async () => {
    if (control.signal.aborted) return;
    show();
    try {
      await alternatives(scenario, control.signal, (layouts, done) => {
        others = { control, layouts, done };
        show();
      });
    } catch (error) {
      if (error.name !== "AbortError" && !(error instanceof Gone) && !(error instanceof Refused)) throw error;
    }
  }, 400);
}

/** Ask for pinned scenarios that have no answer yet, one after the other. */
async function askPins() {
  const turn = ++asking;
  for (const { label, scenario } of state.pins) {
    if (answers.has(label) && answers.get(label).of === scenario) continue;
    if (JSON.stringify(answers.get(label)?.scenario) === JSON.stringify(scenario)) continue;
    try {
      const body = await askOnce(scenario);
      if (turn !== asking) return;
      answers.set(label, body);
      body.of = scenario;
      drawKept();
    } catch (error) {
      if (error instanceof Gone) return;
      if (!(error instanceof Refused)) throw error;
      notice(`pin-${label}`, `Scenario ${label}: ${error.message}`);
    }
  }
}

/** The state that the reader went to in the history; Undo never leads out of the page. */
function travel(event) {
  depth = event.state?.depth ?? 0;
  last = { field: "", at: 0 };
  byId("undo").disabled = !depth;
  follow();
}

/** The state of the link, with what was not understood said. */
function follow() {
  const { state: next, problems } = decode(location.hash, catalogue);
  notice("link", problems.length ? `Of the link was left out: ${problems.join("; ")}.` : "");
  for (const pin of next.pins) {
    const old = state?.pins.find((p) => p.label === pin.label);
    if (old && JSON.stringify(old.scenario) !== JSON.stringify(pin.scenario)) answers.delete(pin.label);
  }
  put(next, { travelled: true });
}

async function start() {
  try {
    catalogue = await readCatalogue();
  } catch (error) {
    notice(
      "gone",
      error instanceof Gone ? "The server does not answer. Trying again in 2 s." : error.message,
    );
    setTimeout(start, 2000);
    return;
  }
  notice("gone", "");
  form = controls(byId("controls"), catalogue, change, uploadTrace);
  redraw(byId("metrics"), el("p", { class: "dim" }, "Computing the first answer ..."));
  follow();
  depth = history.state?.depth ?? 0;
  byId("undo").disabled = !depth;
  history.replaceState({ depth }, "", `#${encode(state)}`);
  window.addEventListener("popstate", travel);
  byId("undo").addEventListener("click", () => history.back());
  byId("skip").addEventListener("click", (event) => {
    event.preventDefault();
    byId("answer").focus();
  });
  byId("share").addEventListener("click", async () => {
    const done = await copy(location.href);
    notice(
      "share",
      done
        ? "Link copied: it holds the current and all pinned scenarios."
        : "The browser does not allow copying; the link is in the address bar.",
    );
    setTimeout(() => notice("share", ""), 4000);
  });
}

themes(byId("theme"));
start();
