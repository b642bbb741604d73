// The work, away from the page's thread: reads a file, prepares a slice, runs the model. It is started from a
// blob, so that the page's Content-Security-Policy binds it too.

import { graphInputs, finish } from "./mri/graph_inputs.js";
import { prepareSlice } from "./mri/prepare.js";
import { InputError } from "./mri/errors.js";
import { openKspace } from "./files/open.js";
import { startEngine } from "./engine.js";

const tell = (kind, message) => postMessage({ kind, ...message });

const MAX_RESIDUAL_RATIO = 1.25, MAX_MODEL_ERROR = 0.03, DIVERGED_RESIDUAL = 1;

// As src/sbim_deploy/recon/self_check.py.
function doubts(residual, explained) {
  const modelError = Math.sqrt(Math.max(residual ** 2 - explained ** 2, 0));
  if (residual <= MAX_RESIDUAL_RATIO * explained || modelError <= MAX_MODEL_ERROR) return [];
  if (!(residual <= DIVERGED_RESIDUAL)) {
    throw new InputError(
      `the image does not explain its data at all, its residual is ${residual.toPrecision(2)} times the data: check that ` +
        "the file holds k-space of one object, with the readout along the rows",
    );
  }
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  return [
    `the image does not explain the measured data: its residual is ${percent(residual)}, where the noise explains ` +
      `${percent(explained)}; motion, or coil maps that do not fit`,
  ];
}

const commands = {
  async look({ file }) {
    const source = await openKspace(file);
    tell("looked", { description: source.description, nSlices: source.nSlices });
  },

  async reconstruct({ file, slice, seed, wantsWebGpu }) {
    const began = performance.now();
    tell("stage", { name: "reading the file", share: 0 });
    const source = await openKspace(file);
    const read = await source.readSlice(slice);
    const problem = prepareSlice({ index: slice, ...read }, (name, share) => tell("stage", { name, share }));
    const prepared = performance.now();
    tell("stage", { name: "loading the model", share: 0 });
    const plan = await (await fetch(new URL("built/plan.json", import.meta.url))).json();
    const { graph, operator, x: start, step } = graphInputs(problem, plan, seed);
    let x = start;
    let inputs = { ...operator, ...step(plan.rows[0]), x };
    const engine = await startEngine(graph, inputs, wantsWebGpu);
    const loaded = performance.now();
    for (const index of plan.rows.keys()) {
      tell("stage", { name: `network call ${index + 1} of ${plan.rows.length}`, share: index / plan.rows.length });
      if (index) inputs = { ...operator, ...step(plan.rows[index]), x };
      x = await engine.run(inputs);
      if (!x.data.every(Number.isFinite)) {
        throw new InputError(`the image is not finite after network call ${index + 1}: take another slice or file`);
      }
    }
    const { image, zeroFilled, residualImage, residual, explained } = finish(problem, x);
    const plain = ({ shape, data }) => ({ shape, data: Float32Array.from(data) });
    tell("done", {
      slice,
      seed,
      plan: { preset: plan.preset, sampler: plan.sampler, model: plan.model, calls: plan.rows.length },
      image: plain(image),
      zeroFilled: plain(zeroFilled),
      residualImage: plain(residualImage),
      residual,
      explained,
      scale: problem.scale,
      noise: problem.noise,
      noiseSource: problem.noiseSource,
      mapSource: problem.mapSource,
      nLines: problem.nLines,
      faults: [...source.remarks, ...problem.faults, ...doubts(residual, explained), ...(engine.remark ? [engine.remark] : [])],
      engine: engine.name,
      seconds: {
        preparation: (prepared - began) / 1000,
        loading: (loaded - prepared) / 1000,
        sampling: (performance.now() - loaded) / 1000,
      },
    });
  },
};

addEventListener("message", async ({ data: { command, ...options } }) => {
  try {
    await commands[command](options);
  } catch (error) {
    const known = error instanceof InputError;
    tell("failed", {
      message: known
        ? error.message
        : `the browser could not go on (${error?.message ?? error}): try a smaller file, another browser, or sbim-deploy recon`,
    });
    if (!known) console.error(error);
  }
});
