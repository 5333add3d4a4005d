// What an answer says, metric by metric, and how surely limits are met. Pure.

import { bytes, digits, joined, money, percent, rate, thousands, time } from "./units.js";

const turned = (pair, by) => (pair ? [by / pair[1], by / pair[0]] : null);

/**
 * The metrics of an answer: value, 90 % interval, bound and limit, in SI.
 *
 * Cost is price over throughput, so its interval and bound are those of the throughput, turned around.
 */
export function metricsOf(answer) {
  const p = answer.prediction;
  const interval = p?.interval ?? {};
  const devices = p?.devices ?? 1;
  const usd = answer.usd_per_million_output_tokens;
  const worth = p && usd ? usd * p.output_throughput : null;
  const bound = p?.bounds?.output_throughput;
  const limit = (ms) => (ms === null || ms === undefined ? null : ms / 1e3);
  return [
    {
      key: "ttft",
      label: "TTFT",
      title: "time to first token, mean",
      lower: true,
      format: time,
      value: p?.ttft_s,
      interval: interval.ttft_s,
      bound: p?.bounds?.ttft_s,
      meets: answer.meets?.ttft,
      limit: limit(answer.scenario.ttft_limit_ms),
    },
    {
      key: "tpot",
      label: "TPOT",
      title: "time per output token, mean",
      lower: true,
      format: time,
      value: p?.tpot_s,
      interval: interval.tpot_s,
      bound: p?.bounds?.tpot_s,
      meets: answer.meets?.tpot,
      limit: limit(answer.scenario.tpot_limit_ms),
    },
    {
      key: "throughput",
      label: "Throughput",
      title: "output tokens per second of the whole deployment",
      lower: false,
      format: rate,
      bare: thousands,
      unit: "tokens/s",
      value: p?.output_throughput,
      interval: interval.output_throughput,
      bound,
    },
    {
      key: "device",
      label: "Per device",
      title: "output tokens per second and device",
      lower: false,
      format: rate,
      bare: thousands,
      unit: "tokens/s",
      value: p?.output_throughput_per_device,
      interval: interval.output_throughput_per_device,
      bound: bound ? bound / devices : null,
    },
    {
      key: "cost",
      label: "Cost per million",
      title: "price of a million output tokens",
      lower: true,
      format: money,
      bare: (v) => [money(v)[0], ""],
      unit: "USD",
      value: usd,
      interval: worth ? turned(interval.output_throughput, worth) : null,
      bound: worth && bound ? worth / bound : null,
      missing: p && !usd ? "no price known" : null,
    },
  ].map((m) => ({
    ...m,
    value: m.value ?? null,
    interval: m.interval ?? null,
    bound: m.bound ?? null,
    limit: m.limit ?? null,
  }));
}

const WORDS = {
  surely: [true, "met, surely: the whole 90 % interval is within"],
  probably: [true, "met, probably: the 90 % interval reaches beyond it"],
  "probably not": [false, "not met, probably: the 90 % interval reaches within it"],
  not: [false, "not met, surely: the whole 90 % interval is beyond it"],
};

/** How sure the server is that a metric's limit is met: `{met, sure, text}`; null without a limit. */
export function judged({ meets, interval }) {
  if (!meets || !Object.hasOwn(WORDS, meets.verdict)) return null;
  const [met, text] = WORDS[meets.verdict];
  if (meets.proven)
    return { met: false, sure: true, text: "cannot be met: no schedule beats the bound, which is beyond it" };
  if (!interval)
    return { met, sure: false, text: `${met ? "met" : "not met"}, as far as is known: there is no interval` };
  return { met, sure: meets.verdict === "surely" || meets.verdict === "not", text };
}

const CHANGES = {
  time: ["shorter", "longer", "as long"],
  cost: ["cheaper", "dearer", "as dear"],
  rate: ["less", "more", "as much"],
};

/**
 * What one value says of another: `{better, decided, text}`; `decided` where their intervals do not overlap.
 *
 * Null where there is nothing to compare.
 */
export function compared(one, other) {
  if (!(one.value > 0) || !(other.value > 0)) return null;
  const ratio = one.value / other.value;
  if (Math.abs(ratio - 1) < 5e-4) return { better: false, decided: true, text: "equal" };
  const [less, more, as] = CHANGES[one.key === "cost" ? "cost" : one.lower ? "time" : "rate"];
  const text =
    ratio < 1
      ? `${percent(1 - ratio)} ${less}`
      : ratio < 2
        ? `${percent(ratio - 1)} ${more}`
        : `${digits(ratio, 2)} × ${as}`;
  const [a, b] = [one.interval, other.interval];
  return { better: ratio < 1 === one.lower, decided: Boolean(a && b && (a[1] < b[0] || b[1] < a[0])), text };
}

/** A value with its unit. */
export const shown = (metric, value = metric.value) => joined(metric.format(value));

/** A value where its unit stands above. */
export const bare = (metric, value) => joined((metric.bare ?? metric.format)(value));

/** An interval in words; `format` gives number and unit. */
export function span(metric, format = metric.format) {
  const pair = metric.interval;
  if (!pair) return "";
  const [low, unit] = format(pair[0]);
  const [high, of] = format(pair[1]);
  return unit === of ? `${low} – ${joined([high, of])}` : `${joined([low, unit])} – ${joined([high, of])}`;
}

const RESOURCES = {
  compute: ["computing", "compute"],
  memory: ["reading device memory", "memory"],
  "near-compute": ["computing beside the memory", "near compute"],
  "near-memory": ["reading memory from beside it", "near memory"],
  "scale-up": ["the link between devices", "scale-up"],
  "scale-out": ["the network between nodes", "scale-out"],
  launch: ["launching operations", "launch"],
  imbalance: ["waiting for the slowest rank", "imbalance"],
  prefill: ["prefills of other requests", "prefill"],
  draft: ["drafting tokens", "draft"],
  host: ["waiting for the host", "host"],
};
const SLOTS = [
  "memory",
  "compute",
  "scale-up",
  "scale-out",
  "launch",
  "prefill",
  "imbalance",
  "host",
  "draft",
];

/** Where a token's time goes by resource: `{key, label, short, share, slot, text}`, largest first. */
export const resourcesOf = (prediction) =>
  (prediction?.bottleneck ?? []).map(({ resource, share }) => {
    const [label, short] = RESOURCES[resource] ?? [resource, resource];
    const k = SLOTS.indexOf(resource);
    return {
      key: resource,
      label,
      short,
      share,
      slot: `s${k < 0 ? 8 : k}`,
      text: `${label}: ${percent(share)}`,
    };
  });

/** Parts of a device's memory, with what is free, and what the engine may not use. */
export function memoryOf(prediction) {
  const m = prediction?.memory;
  if (!m) return null;
  const whole = prediction.memory_capacity_bytes;
  const part = (key, label, size, slot) => ({
    key,
    label,
    short: label,
    share: size,
    slot,
    text: `${label}: ${joined(bytes(size))}`,
  });
  const usable = m.budget_bytes ?? whole;
  const used = (m.weights_bytes ?? 0) + (m.workspace_bytes ?? 0) + (m.cache_bytes ?? 0);
  return {
    whole,
    used,
    usable,
    parts: [
      part("weights", "weights", m.weights_bytes ?? 0, "s0"),
      part("workspace", "workspace", m.workspace_bytes ?? 0, "s4"),
      part("cache", "KV cache", m.cache_bytes ?? 0, "s2"),
      part("free", "free", Math.max(0, usable - used), "free"),
      part("kept", "kept from the engine", Math.max(0, whole - Math.max(usable, used)), "kept"),
    ].filter((p) => p.share > 0),
  };
}
