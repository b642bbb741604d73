// A reconstruction without Python: one call of one ONNX graph.
//     node reconstruct.mjs MODEL_DIR problem.safetensors image.safetensors
// problem.py writes the problem; the image is float32 (slice, 2, rows, columns), real and imaginary part.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import * as ort from "onnxruntime-node";

// safetensors: the header's length in 8 bytes, a JSON header, the arrays' bytes.
function readArrays(path) {
  const file = readFileSync(path);
  const headerBytes = Number(file.readBigUInt64LE(0));
  const { __metadata__: metadata, ...entries } = JSON.parse(file.toString("utf8", 8, 8 + headerBytes));
  const arrays = {};
  for (const [name, { dtype, shape, data_offsets: [begin, end] }] of Object.entries(entries)) {
    if (dtype !== "F32") throw new Error(`${path}: ${name} is ${dtype}, expected F32`);
    const bytes = file.subarray(8 + headerBytes + begin, 8 + headerBytes + end);
    arrays[name] = new ort.Tensor("float32", new Float32Array(new Uint8Array(bytes).buffer), shape);
  }
  return { metadata, arrays };
}

function writeArray(path, name, tensor, metadata) {
  const bytes = Buffer.from(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength);
  const entry = { dtype: "F32", shape: tensor.dims, data_offsets: [0, bytes.length] };
  const header = Buffer.from(JSON.stringify({ __metadata__: metadata, [name]: entry }));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  writeFileSync(path, Buffer.concat([length, header, bytes]));
}

// Where no coil sees anything the data say nothing of the image, which is 0 there.
function clearUnseen(image, maps) {
  const [slices, coils, , rows, columns] = maps.dims;
  const pixels = rows * columns;
  for (let slice = 0; slice < slices; slice++) {
    const first = slice * coils * 2 * pixels;
    for (let pixel = 0; pixel < pixels; pixel++) {
      let seen = false;
      for (let part = 0; part < coils * 2 && !seen; part++) seen = maps.data[first + part * pixels + pixel] !== 0;
      if (!seen) for (const part of [0, 1]) image.data[(slice * 2 + part) * pixels + pixel] = 0;
    }
  }
}

const [modelFolder, problemPath, imagePath] = process.argv.slice(2);
if (imagePath === undefined) {
  console.error("usage: node reconstruct.mjs MODEL_DIR problem.safetensors image.safetensors");
  process.exit(2);
}
const { metadata, arrays } = readArrays(problemPath);
const graph = join(modelFolder, metadata.graph);
const session = await ort.InferenceSession.create(graph, { logSeverityLevel: 3 });
const before = performance.now();
const { image } = await session.run(arrays);
clearUnseen(image, arrays.maps);
const seconds = (performance.now() - before) / 1000;
writeArray(imagePath, "image", image, { notice: "Research use only. Not for diagnosis.", scale: metadata.scale });
console.log(`${imagePath}: ${image.dims.join(" x ")} by ${metadata.graph} in ${seconds.toFixed(2)} s`);
