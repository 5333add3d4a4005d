// What the form's fields are called, and what its groups say while they are folded.

import { layoutText } from "./layout.js";
import { bytes, count, digits, joined } from "./units.js";

export const SLIDERS = {
  nodes: ["Nodes", ""],
  input_len: ["Input length", "tokens"],
  output_len: ["Output length", "tokens"],
  concurrency: ["Concurrency", "requests"],
  request_rate: ["Request rate", "requests/s"],
  ttft_limit_ms: ["TTFT limit", "ms"],
  tpot_limit_ms: ["TPOT limit", "ms"],
  redundant: ["Redundant experts", ""],
  seed: ["Seed", ""],
};
export const CHOICES = {
  backend: ["Engine", { vllm: "vLLM", sglang: "SGLang", trtllm: "TensorRT-LLM" }],
  dtype: ["Weights", { auto: "checkpoint's" }],
  kv_cache_dtype: ["KV cache", { auto: "16 bits" }],
  overlap: ["Overlap", { none: "none", "two-batch": "two batches", streams: "streams" }],
  routing: ["Assumed routing", {}],
};
export const TRAFFIC = [
  ["Chat", 1024, 512],
  ["Summary", 8192, 512],
  ["Reasoning", 1024, 8192],
  ["Code", 16384, 1024],
];
export const LAYOUT = {
  tp: ["TP", "tensor parallel: ranks that share each attention"],
  pp: ["PP", "pipeline parallel: stages of layers"],
  dp: ["DP", "data parallel: copies of attention"],
  ep: ["EP", "expert parallel: ranks that experts are spread over"],
};

/** What each group says of itself while it is folded. */
export const briefs = (s) => ({
  "g-model": `${s.model}, ${s.nodes} × ${s.hardware}`,
  "g-layout": layoutText(s),
  "g-traffic": [
    `${digits(s.input_len, 6)} in`,
    `${digits(s.output_len, 6)} out`,
    s.request_rate === null ? digits(s.concurrency, 6) : `${digits(s.request_rate)}/s`,
  ].join(", "),
  "g-limits":
    [
      ["TTFT", s.ttft_limit_ms],
      ["TPOT", s.tpot_limit_ms],
    ]
      .map(([name, ms]) => (ms === null ? "" : `${name} ${digits(ms)} ms`))
      .filter(Boolean)
      .join(", ") || "none",
  "g-engine": [s.backend, s.dtype === "auto" ? "" : s.dtype].filter(Boolean).join(", "),
});

/** A model in a line. */
export function modelText(m) {
  if (!m) return "";
  const experts = m.moe === false ? "no experts" : `${m.num_experts} experts, top ${m.top_k}`;
  return `${count(m.total_params)} parameters, ${count(m.active_params)} active; ${m.layers} layers, ${experts}`;
}

/** A machine in a line. */
export function machineText(h) {
  if (!h) return "";
  const usd = h.usd_per_device_hour;
  const price = usd ? `${usd.toFixed(2)} USD per device and hour` : "no price known";
  return `${h.devices_per_node} × ${joined(bytes(h.memory_bytes))} per node; ${price}`;
}
