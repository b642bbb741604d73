// ONNX Runtime in the browser: WebAssembly, or WebGPU where it is asked for and computes the same.

const MAX_DIFFERENCE = 1e-3; // of WebGPU's first network call from WebAssembly's, relative

const built = (name) => new URL(`built/${name}`, import.meta.url).href;

const bytesOf = async (name) => {
  const answer = await fetch(built(name));
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return new Uint8Array(await answer.arrayBuffer());
};

/** Return { name, run }: run takes the graph's inputs by name, { dims, data } each, to its image.
 *
 * wantsWebGpu asks for WebGPU. first are inputs to compare it by: what computes something else is not used, and remark
 * says so.
 */
export async function startEngine(graph, first, wantsWebGpu) {
  const files = await Promise.all([bytesOf(graph), bytesOf("weights.bin")]);
  const hasWebGpu = wantsWebGpu && (await navigator.gpu?.requestAdapter().catch(() => null));
  const ort = await import(hasWebGpu ? "./built/ort.webgpu.min.mjs" : "./built/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = built("");
  // Threads need memory that is shared, which a page has where its server isolates it (COOP and COEP).
  const threads = globalThis.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 4) : 1;
  ort.env.wasm.numThreads = threads;
  const byCpu = { name: `WebAssembly, ${threads} thread${threads > 1 ? "s" : ""}`, run: await open(ort, "wasm", files) };
  if (!wantsWebGpu) return byCpu;
  if (!hasWebGpu) return { ...byCpu, remark: "WebGPU is not used: this browser offers none" };
  try {
    const run = await open(ort, "webgpu", files);
    const away = distance((await run(first)).data, (await byCpu.run(first)).data);
    if (away <= MAX_DIFFERENCE) return { name: "WebGPU", run };
    return { ...byCpu, remark: `WebGPU is not used: its first step is ${(100 * away).toPrecision(2)} % from WebAssembly's` };
  } catch (error) {
    return { ...byCpu, remark: `WebGPU is not used: ${String(error?.message ?? error).split("\n")[0].slice(0, 200)}` };
  }
}

async function open(ort, provider, [model, weights]) {
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

function distance(got, expected) {
  let difference = 0, size = 0;
  expected.forEach((each, i) => {
    difference += (got[i] - each) ** 2;
    size += each ** 2;
  });
  return Math.sqrt(difference / size);
}
