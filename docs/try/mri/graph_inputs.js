// A slice on the network's grid and in its units, as the inputs of reconstruct-proximal.onnx: the JavaScript of
// src/sbim_deploy/recon/grid.py and fused.py. Every array is { dims, data } with data a Float32Array.

import { centre, centred } from "./arrays.js";
import { full } from "./masks.js";
import { noiseStream } from "./noise_stream.js";
import { sense } from "./sense.js";

const tensor = (...dims) => ({ dims, data: new Float32Array(dims.reduce((n, each) => n * each, 1)) });

/** Return complex (rows, columns), or (coil, rows, columns), with its real and imaginary parts as two planes. */
export function toChannels(array) {
  const [rows, columns] = array.shape.slice(-2);
  const pixels = rows * columns, images = array.data.length / 2 / pixels;
  const dims = array.shape.length === 2 ? [1, 2, rows, columns] : [1, images, 2, rows, columns];
  const result = { dims, data: new Float32Array(2 * images * pixels) };
  for (let image = 0; image < images; image++) {
    for (let i = 0; i < pixels; i++) {
      result.data[2 * image * pixels + i] = array.data[2 * (image * pixels + i)];
      result.data[(2 * image + 1) * pixels + i] = array.data[2 * (image * pixels + i) + 1];
    }
  }
  return result;
}

export function fromChannels({ dims, data }) {
  const [rows, columns] = dims.slice(-2);
  const pixels = rows * columns;
  const image = { shape: [rows, columns], data: new Float64Array(2 * pixels) };
  for (let i = 0; i < pixels; i++) {
    image.data[2 * i] = data[i];
    image.data[2 * i + 1] = data[pixels + i];
  }
  return image;
}

// The columns of the centred Fourier matrix that were sampled, (1, 2, size on the grid, lines), with lines filled up.
function encoding(lines, gridSize, linesMultiple) {
  const n = lines.length;
  const sampled = [...lines.keys()].filter((i) => lines[i]);
  const width = Math.ceil(sampled.length / linesMultiple) * linesMultiple;
  const result = tensor(1, 2, gridSize, width);
  const shift = centre(gridSize) - centre(n);
  for (let row = 0; row < n; row++) {
    sampled.forEach((column, i) => {
      const turns = -(((row - centre(n)) * (column - centre(n))) % n) / n;
      const at = (row + shift) * width + i;
      result.data[at] = Math.cos(2 * Math.PI * turns) / Math.sqrt(n);
      result.data[gridSize * width + at] = Math.sin(2 * Math.PI * turns) / Math.sqrt(n);
    });
  }
  return result;
}

/** Return { graph, operator, x, step } of a slice: the graph's name, the inputs that stay, the start, and what
 * gives the inputs of the next step.
 *
 * plan is what docs/try/build_page.py writes: start, rows, size_multiple, lines_multiple.
 */
export function graphInputs(problem, plan, seed) {
  const [rows, columns] = problem.mvue.shape;
  const grid = [rows, columns].map((n) => Math.ceil(n / plan.size_multiple) * plan.size_multiple);
  const inUnits = (image) => ({ shape: image.shape, data: image.data.map((each) => each / problem.scale) });
  const backprojection = inUnits(sense(problem.maps, problem.mask).adjoint(problem.kspace));
  const operator = {
    maps: toChannels(centred(problem.maps, grid)),
    backprojection: toChannels(centred(backprojection, grid)),
    map_set: tensor(1),
  };
  const { mask } = problem;
  const isOneWay = mask.rows === 1;
  const whole = full(mask, rows, columns).data;
  const sampledColumns = new Uint8Array(columns), sampledRows = new Uint8Array(rows);
  whole.forEach((each, i) => {
    if (each) sampledColumns[i % columns] = sampledRows[Math.floor(i / columns)] = 1;
  });
  operator.encoding = encoding(sampledColumns, grid[1], plan.lines_multiple);
  if (!isOneWay) {
    operator.row_encoding = encoding(sampledRows, grid[0], plan.lines_multiple);
    const height = operator.row_encoding.dims[3], width = operator.encoding.dims[3];
    operator.mask = tensor(1, height, width);
    [...sampledRows.keys()].filter((row) => sampledRows[row]).forEach((row, r) =>
      [...sampledColumns.keys()].filter((column) => sampledColumns[column]).forEach((column, c) => {
        operator.mask.data[r * width + c] = whole[row * columns + column];
      }),
    );
  }
  const fill = noiseStream(seed, problem.index);
  const drawn = new Float32Array(2 * grid[0] * grid[1]);
  const planes = (scale, base, to) => {
    fill(drawn);
    const pixels = grid[0] * grid[1];
    for (let i = 0; i < pixels; i++) {
      to[i] = base[i] + scale * drawn[2 * i];
      to[pixels + i] = base[pixels + i] + scale * drawn[2 * i + 1];
    }
  };
  const image = toChannels(centred(inUnits(problem.mvue), grid));
  const start = image.data.map((each) => each * plan.start.image);
  const x = tensor(1, 2, ...grid);
  planes(plan.start.noise, start, x.data);
  const noiseLevel = Math.fround(problem.noise / problem.scale);
  const none = new Float32Array(x.data.length);
  const number = (value) => ({ dims: [1, 1], data: Float32Array.of(value) });
  const step = (row) => {
    const z = tensor(1, 1, 2, ...grid);
    if (row.noise_scale) planes(1, none, z.data);
    return {
      z_of_rows: z,
      sigma_of_rows: number(row.sigma),
      gamma_of_rows: number(row.gamma + row.noise_gamma * noiseLevel ** 2),
      renoise_of_rows: number(row.renoise),
      noise_scale_of_rows: number(row.noise_scale),
    };
  };
  return { graph: `reconstruct-proximal${isOneWay ? "" : "-2d"}.onnx`, operator, x, step };
}

/** Return { image, zeroFilled, residual, residualImage } of a slice for the graph's last x.
 *
 * The images are complex, cropped to the image's size and in units of k-space. The residual is |A x - y| / |y|; its
 * image is A^H (A x - y).
 */
export function finish(problem, x) {
  const [, rows, columns] = problem.maps.shape;
  const seen = new Uint8Array(rows * columns);
  problem.maps.data.forEach((part, i) => {
    if (part !== 0) seen[(i >> 1) % seen.length] = 1;
  });
  const image = centred(fromChannels(x), [rows, columns]);
  const inUnits = {
    shape: image.shape,
    data: image.data.map((each, i) => (seen[i >> 1] ? each * problem.scale : 0)),
  };
  const operator = sense(problem.maps, problem.mask);
  const left = operator.forward(inUnits);
  let leftEnergy = 0, energy = 0;
  for (let i = 0; i < left.data.length; i++) {
    left.data[i] -= problem.kspace.data[i];
    leftEnergy += left.data[i] ** 2;
    energy += problem.kspace.data[i] ** 2;
  }
  const nMeasured = problem.kspace.data.reduce(
    (n, _, i, data) => n + (i % 2 === 0 && (data[i] !== 0 || data[i + 1] !== 0) ? 1 : 0),
    0,
  );
  const shown = problem.imageShape.map((n, axis) => Math.min(n, inUnits.shape[axis]));
  return {
    image: centred(inUnits, shown),
    zeroFilled: centred(problem.mvue, shown),
    residualImage: centred(operator.adjoint(left), shown),
    residual: Math.sqrt(leftEnergy / energy),
    explained: (problem.noise * Math.sqrt(2 * nMeasured)) / Math.sqrt(energy),
  };
}
