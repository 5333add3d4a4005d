// Numbers as people read them. Pure.

const finite = (x) => typeof x === "number" && Number.isFinite(x);

/** Three significant digits, thousands apart. */
export function digits(x, n = 3) {
  if (!finite(x)) return "–";
  if (x === 0) return "0";
  const size = Math.floor(Math.log10(Math.abs(x)));
  const places = Math.max(0, Math.min(6, n - 1 - size));
  // By hand: a locale's formatter takes longer than all the rest of drawing.
  const [whole, part = ""] = Number(x.toPrecision(n)).toFixed(places).split(".");
  const kept = part.replace(/0+$/, "");
  return whole.replace(/\B(?=(\d{3})+$)/g, ",") + (kept && `.${kept}`);
}

/** `[number, unit]` of a time in seconds. */
export function time(s) {
  if (!finite(s)) return ["–", ""];
  if (s >= 100) return [digits(s), "s"];
  if (s >= 1) return [digits(s), "s"];
  if (s >= 1e-3) return [digits(s * 1e3), "ms"];
  return [digits(s * 1e6), "µs"];
}

/** `[number, prefix]`: 3,840; 38.4 k; 3.84 M. */
export function thousands(x) {
  if (!finite(x)) return ["–", ""];
  if (x >= 1e6) return [digits(x / 1e6), "M"];
  return x >= 1e4 ? [digits(x / 1e3), "k"] : [digits(x), ""];
}

/** `[number, unit]` of a rate, `per` a second. */
export function rate(x, per = "tokens/s") {
  const [number, prefix] = thousands(x);
  return finite(x) ? [number, `${prefix} ${per}`.trim()] : [number, ""];
}

/** `[number, unit]` of money. */
export function money(usd) {
  if (!finite(usd)) return ["–", ""];
  return [usd >= 0.995 && usd < 100 ? usd.toFixed(2) : digits(usd), "USD"];
}

/** `[number, unit]` of memory; GB is 1e9. */
export function bytes(b) {
  if (!finite(b)) return ["–", ""];
  for (const [size, unit] of [
    [1e12, "TB"],
    [1e9, "GB"],
    [1e6, "MB"],
    [1e3, "kB"],
  ]) {
    if (Math.abs(b) >= size) return [digits(b / size), unit];
  }
  return [digits(b), "B"];
}

/** Parameters: 671 B. */
export const count = (n) =>
  !finite(n) ? "–" : n >= 1e9 ? `${digits(n / 1e9)} B` : n >= 1e6 ? `${digits(n / 1e6)} M` : digits(n);

export const percent = (x) => (finite(x) ? `${digits(x * 100, x < 0.1 ? 2 : 3)} %` : "–");

/** Number and unit with a space that does not break. */
export const joined = ([number, unit]) => (unit ? `${number}\u00a0${unit}` : number);
