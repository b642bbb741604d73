// The work, away from the page's thread: reads a file, prepares a slice, runs the model. It is started from a
// blob, so that the page's Content-Security-Policy binds it too.

import { graphInputs, finish } from "./mri/graph_inputs.js";
import { prepareSlice } from "./mri/prepare.js";
import { InputError } from "./mri/errors.js";
import { openKspace } from "./files/open.js";
import { startEngine } from "./engine.js";

const tell = (kind, message) => postMessage({ kind, ...message });

const commands = {
  async look({ file }) {
    const source = await openKspace(file);
    tell("looked", { description: source.description, nSlices: source.nSlices });
  },

  async reconstruct({ file, slice, seed }) {
    const began = performance.now();
    tell("stage", { name: "reading the file", share: 0 });
    const source = await openKspace(file);
    const read = await source.readSlice(slice);
    const problem = prepareSlice({ index: slice, ...read }, (name, share) => tell("stage", { name, share }));
    const prepared = performance.now();
    tell("stage", { name: "loading the model", share: 0 });
    const plan = await (await fetch(new URL("built/plan.json", import.meta.url))).json();
    const { graph, operator, x: start, step } = graphInputs(problem, plan, seed);
    const engine = await startEngine(graph);
    const loaded = performance.now();
    let x = start;
    for (const [index, row] of plan.rows.entries()) {
      tell("stage", { name: `network call ${index + 1} of ${plan.rows.length}`, share: index / plan.rows.length });
      x = await engine.run({ ...operator, ...step(row), x });
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
      faults: [...source.remarks, ...problem.faults],
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
