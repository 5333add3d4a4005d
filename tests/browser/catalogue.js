// A catalogue of two models and two machines.
(() => {
  const range = (min, max) => ({ min, max, step: 1, scale: "log", unit: "", label: "" });
  const shape = { num_experts: 32, top_k: 4 };
  return {
    models: [
      { name: "moe", moe: true, ...shape, layers: 24, moe_layers: 24, heads: [64], expert_width: 2880 },
      {
        name: "dense",
        moe: false,
        num_experts: 0,
        top_k: 0,
        layers: 80,
        moe_layers: 0,
        heads: [64],
        expert_width: null,
      },
    ],
    hardware: [
      { name: "eight", devices_per_node: 8, max_nodes: 16, memory_bytes: 8e10, usd_per_device_hour: 2 },
      { name: "one", devices_per_node: 1, max_nodes: 1, memory_bytes: 2e10, usd_per_device_hour: null },
    ],
    traces: [{ id: "t", name: "t", model: "moe", ...shape, layers: 24 }],
    defaults: {
      scenario: {
        model: "moe",
        hardware: "eight",
        nodes: 1,
        tp: 1,
        pp: 1,
        dp: 8,
        ep: 8,
        redundant: 0,
        input_len: 1024,
        output_len: 256,
        concurrency: 64,
        request_rate: null,
        dtype: "auto",
        kv_cache_dtype: "auto",
        backend: "vllm",
        overlap: "none",
        trace: null,
        routing: "typical",
        ttft_limit_ms: null,
        tpot_limit_ms: null,
        seed: 0,
      },
    },
    limits: {
      nodes: range(1, 128),
      redundant: range(0, 4096),
      seed: range(0, 2147483647),
      input_len: range(1, 1e6),
      output_len: range(1, 1e6),
      concurrency: range(1, 1e6),
      request_rate: range(0.001, 1e5),
      ttft_limit_ms: range(1, 1e7),
      tpot_limit_ms: range(0.1, 1e5),
    },
    choices: {
      dtype: ["auto", "fp8"],
      kv_cache_dtype: ["auto", "fp8"],
      backend: ["vllm", "sglang"],
      overlap: ["none"],
      routing: ["typical", "uniform"],
    },
  };
})();
