// ONNX Runtime in the browser: WebGPU where it is and computes the same, WebAssembly elsewhere.

const built = (name) => new URL(`built/${name}`, import.meta.url).href;

const bytesOf = async (name) => {
  const answer = await fetch(built(name));
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return new Uint8Array(await answer.arrayBuffer());
};

async function open(ort, graph, provider) {
  ort.env.wasm.wasmPaths = built("");
  // Threads need memory that is shared, which a page has where its server isolates it (COOP and COEP).
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 4) : 1;
  const [model, weights] = await Promise.all([bytesOf(graph), bytesOf("weights.bin")]);
  const session = await ort.InferenceSession.create(model, {
    executionProviders: [provider],
    externalData: [{ path: "weights.bin", data: weights }],
    logSeverityLevel: 3,
  });
  return async (inputs) => {
    const feeds = {};
    for (const [name, { dims, data }] of Object.entries(inputs)) feeds[name] = new ort.Tensor("float32", data, dims);
    const { image } = await session.run(feeds);
    const result = { dims: [...image.dims], data: Float32Array.from(await image.getData()) };
    image.dispose();
    return result;
  };
}

/** Return { name, run }: run takes the graph's inputs by name, { dims, data } each, to its image. */
export async function startEngine(graph) {
  const ort = await import("./built/ort.wasm.min.mjs");
  const run = await open(ort, graph, "wasm");
  const threads = ort.env.wasm.numThreads;
  return { name: `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`, run };
}
