// Which layouts can be laid out, and the nearest one to what was asked for. Pure.
// world = pp x dp x tp; experts lie on ep ranks of dp x tp; each is cut into dp x tp / ep shards.

export const devicesOf = (scenario, catalogue) => {
  const machine = catalogue.hardware.find((h) => h.name === scenario.hardware);
  return (machine?.devices_per_node ?? 1) * scenario.nodes;
};

export const divisors = (n) => {
  const found = [];
  for (let d = 1; d * d <= n; d++) {
    if (n % d === 0) {
      found.push(d);
      if (d * d !== n) found.push(n / d);
    }
  }
  return found.sort((a, b) => a - b);
};

const headsOf = (model) => (Array.isArray(model?.heads) ? model.heads : []);

/** Tensor-parallel sizes on `devices`: they divide the heads. */
export function tpOptions(model, devices) {
  const heads = headsOf(model);
  const sizes = heads.length ? divisors(heads.reduce(gcd)) : divisors(1 << 10);
  return sizes.filter((n) => n <= devices);
}

/** Pipeline stages: no more than layers, and no more than devices let. */
export function ppOptions(model, devices, tp) {
  const most = Math.min(Math.floor(devices / tp), model?.layers ?? 1);
  return [...new Set([...divisors(Math.floor(devices / tp)), 1, 2, 4, 8, 16])]
    .filter((n) => n >= 1 && n <= most)
    .sort((a, b) => a - b);
}

/** Data-parallel ranks: all counts of few, else divisors of what is left and powers of two below. */
export function dpOptions(devices, tp, pp) {
  const most = Math.floor(devices / tp / pp);
  if (most <= 16) return Array.from({ length: most }, (_, k) => k + 1);
  const powers = Array.from({ length: 17 }, (_, k) => 2 ** k);
  return [...new Set([...divisors(most), ...powers])]
    .filter((n) => n >= 1 && n <= most)
    .sort((a, b) => a - b);
}

/** Expert-parallel ranks: they divide dp x tp and the experts with spares; shards of experts are equal. */
export function epOptions(model, tp, dp, redundant = 0) {
  const stage = tp * dp;
  const slots = (model?.num_experts ?? 0) + redundant;
  const width = model?.expert_width;
  return divisors(stage).filter(
    (n) => (n === 1 || (model?.moe !== false && slots % n === 0)) && (!width || width % (stage / n) === 0),
  );
}

/** Whether the layout of a scenario can be laid out on its devices, as far as the catalogue tells. */
export function lies(scenario, catalogue) {
  const { tp, pp, dp, ep, redundant } = scenario;
  const model = catalogue.models.find((m) => m.name === scenario.model);
  const devices = devicesOf(scenario, catalogue);
  return (
    tp * pp * dp <= devices &&
    pp <= (model?.layers ?? 1) &&
    headsOf(model).every((n) => n % tp === 0) &&
    epOptions(model, tp, dp, redundant).includes(ep)
  );
}

const nearest = (options, wanted) =>
  options.reduce((best, n) =>
    Math.abs(Math.log(n / wanted)) < Math.abs(Math.log(best / wanted)) ? n : best,
  );

/**
 * The scenario with the nearest layout that can be laid out.
 *
 * What was `changed` is kept if it can be; a deployment that used all its devices keeps using them all; experts
 * spread over all ranks stay so.
 */
export function repaired(before, scenario, changed, catalogue) {
  if (before === scenario && lies(scenario, catalogue)) return scenario;
  const model = catalogue.models.find((m) => m.name === scenario.model);
  const devices = devicesOf(scenario, catalogue);
  const full = before.tp * before.pp * before.dp >= devicesOf(before, catalogue);
  const spread = before.ep > 1 && before.ep === before.tp * before.dp;
  const tp = nearest(tpOptions(model, devices), scenario.tp);
  const pp = nearest(ppOptions(model, devices, tp), scenario.pp);
  const room = dpOptions(devices, tp, pp);
  const dp = changed === "dp" || !full ? nearest(room, scenario.dp) : room.at(-1);
  const among = epOptions(model, tp, dp, scenario.redundant);
  if (!among.length) return { ...scenario, ...searched(scenario, changed, catalogue) };
  const ep = changed !== "ep" && spread ? among.at(-1) : nearest(among, scenario.ep);
  return { ...scenario, tp, pp, dp, ep };
}

/** Of all layouts on most devices the nearest, where going degree by degree finds none. */
function searched(scenario, changed, catalogue) {
  const model = catalogue.models.find((m) => m.name === scenario.model);
  const devices = devicesOf(scenario, catalogue);
  const far = (at) =>
    Object.entries(at).reduce(
      (sum, [name, n]) => sum + (name === changed ? 8 : 1) * Math.abs(Math.log2(n / scenario[name])),
      0,
    ) -
    4 * Math.log2(at.tp * at.pp * at.dp);
  let best = { tp: 1, pp: 1, dp: 1, ep: 1 };
  for (const tp of tpOptions(model, devices)) {
    for (const pp of ppOptions(model, devices, tp)) {
      for (const dp of dpOptions(devices, tp, pp)) {
        for (const ep of epOptions(model, tp, dp, scenario.redundant)) {
          const one = { tp, pp, dp, ep };
          if (far(one) < far(best)) best = one;
        }
      }
    }
  }
  return best;
}

/** Layouts people ask for by name, on all devices; those that cannot be laid out are left out. */
export function presets(scenario, catalogue) {
  const model = catalogue.models.find((m) => m.name === scenario.model);
  const machine = catalogue.hardware.find((h) => h.name === scenario.hardware);
  const devices = devicesOf(scenario, catalogue);
  const node = machine?.devices_per_node ?? 1;
  const named = [
    ["Tensor", "tensor parallel over all devices", devices, 1, 1, 1],
    [
      "Tensor + experts",
      "attention in tensor parallel, experts spread over all devices",
      devices,
      1,
      1,
      devices,
    ],
    ["Data + experts", "a copy of attention on each device, experts spread over all", 1, 1, devices, devices],
    [
      "Node + experts",
      "tensor parallel in a node, data parallel between nodes, experts over all",
      node,
      1,
      devices / node,
      devices,
    ],
    ["Pipeline", "tensor parallel in a node, a pipeline stage on each node", node, devices / node, 1, 1],
  ];
  const seen = new Set();
  const found = [];
  for (const [name, title, tp, pp, dp, ep] of named) {
    const key = [tp, pp, dp, ep].join();
    const lies =
      tpOptions(model, devices).includes(tp) &&
      pp <= (model?.layers ?? 1) &&
      Number.isInteger(dp) &&
      epOptions(model, tp, dp, scenario.redundant).includes(ep);
    if (lies && !seen.has(key)) found.push({ name, title, layout: { tp, pp, dp, ep } });
    seen.add(key);
  }
  return found;
}

export const layoutText = ({ tp, pp, dp, ep }) => `TP ${tp} · PP ${pp} · DP ${dp} · EP ${ep}`;

function gcd(a, b) {
  return b ? gcd(b, a % b) : a;
}
