// Prepares a slice with the page's modules, and writes what each stage made: numbers as JSON, arrays as bytes.
//     node stages.mjs TRY_FOLDER REQUEST.json OUTPUT_FOLDER
// The request has the file, the slice, the seed, and what of the file is told apart: mask and imageShape.

import { openAsBlob, readFileSync, writeFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, requestPath, output] = process.argv.slice(2);
const module = (name) => import(pathToFileURL(resolve(folder, name)));
const { graphInputs } = await module("mri/graph_inputs.js");
const { prepareSlice } = await module("mri/prepare.js");
const { openKspace } = await module("files/open.js");
const { InputError } = await module("mri/errors.js");

const request = JSON.parse(readFileSync(requestPath, "utf8"));
const write = (name, data) => writeFileSync(join(output, name), new Uint8Array(data.buffer, data.byteOffset, data.byteLength));

try {
  const blob = await openAsBlob(request.file);
  const source = await openKspace(new File([blob], basename(request.file)));
  const read = await source.readSlice(request.slice);
  const problem = prepareSlice({ index: request.slice, ...read, ...request.told });
  const { graph, operator, x, step } = graphInputs(problem, request.plan, request.seed);
  const shapes = {};
  for (const name of ["kspace", "maps", "mvue"]) {
    write(name, problem[name].data);
    shapes[name] = problem[name].shape;
  }
  const rows = request.plan.rows.map(step);
  const inputs = { ...operator, x };
  for (const name of Object.keys(rows[0])) {
    const size = rows[0][name].data.length;
    inputs[name] = { dims: [rows.length, ...rows[0][name].dims.slice(1)], data: new Float32Array(rows.length * size) };
    rows.forEach((row, i) => inputs[name].data.set(row[name].data, i * size));
  }
  for (const [name, { dims, data }] of Object.entries(inputs)) {
    write(`in_${name}`, data);
    shapes[`in_${name}`] = dims;
  }
  const { scale, noise, noiseSource, mapSource, faults, mask, imageShape } = problem;
  const told = { scale, noise, noiseSource, mapSource, faults, imageShape, mask: [mask.rows, mask.columns, ...mask.data] };
  const { nSlices, remarks, description } = source;
  writeFileSync(join(output, "told.json"), JSON.stringify({ graph, shapes, nSlices, remarks, description, ...told }));
} catch (error) {
  if (!(error instanceof InputError)) throw error;
  writeFileSync(join(output, "told.json"), JSON.stringify({ error: error.message }));
}
