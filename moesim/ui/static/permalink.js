// The whole state as the fragment of a link, and back. Pure.
// model=...&tp=1...&pin=A~name~model=...: plain words, so that a link can be read and edited.

import { FIELDS, LABELS, MOST_PINS, clean, initial } from "./state.js";

const LONGEST = 20000;

const words = (scenario) => {
  const out = new URLSearchParams();
  for (const field of Object.keys(FIELDS))
    out.set(field, scenario[field] === null ? "none" : String(scenario[field]));
  return out.toString();
};

/** The fragment, without its #. */
export function encode(state) {
  const out = [words(state.current)];
  for (const pin of state.pins) {
    const name = encodeURIComponent(pin.name).replaceAll("~", "%7E");
    const text = `${pin.label}~${name}~${words(pin.scenario)}`;
    out.push(`pin=${encodeURIComponent(text)}`);
  }
  return out.join("&");
}

/**
 * The state a fragment stands for, and what in it was not understood.
 *
 * Nothing in a link is trusted: unknown fields, names that are not in the catalogue and numbers out of range
 * are left out, and each is said.
 */
export function decode(fragment, catalogue) {
  const start = initial(catalogue);
  const text = String(fragment ?? "").replace(/^#/, "");
  if (!text || text === "answer") return { state: start, problems: [] };
  if (text.length > LONGEST) return { state: start, problems: ["The link is too long and was not read."] };
  const raw = Object.create(null);
  const texts = [];
  const problems = [];
  for (const [key, value] of new URLSearchParams(text)) {
    if (key === "pin") texts.push(value);
    else if (Object.hasOwn(raw, key)) problems.push(`“${key.slice(0, 40)}” is there twice`);
    else raw[key] = value;
  }
  const current = clean(raw, start.current, catalogue);
  problems.push(...current.problems);
  const pins = [];
  for (const one of texts.slice(0, MOST_PINS)) {
    const parts = one.split("~");
    const label = parts[0];
    if (parts.length < 3 || !LABELS.includes(label) || pins.some((p) => p.label === label)) {
      problems.push("a pinned scenario cannot be read");
      continue;
    }
    const found = clean(
      Object.fromEntries(new URLSearchParams(parts.slice(2).join("~"))),
      start.current,
      catalogue,
    );
    problems.push(...found.problems.map((p) => `${label}: ${p}`));
    pins.push({ label, name: decoded(parts[1]).slice(0, 60), scenario: found.scenario });
  }
  if (texts.length > MOST_PINS) problems.push(`only ${MOST_PINS} scenarios can be pinned`);
  pins.sort((a, b) => a.label.localeCompare(b.label));
  return { state: { current: current.scenario, pins }, problems: problems.slice(0, 12) };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
