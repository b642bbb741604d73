// ESPIRiT coil maps (Uecker et al. 2014, doi 10.1002/mrm.24751): the JavaScript of src/sbim_deploy/mri/espirit.py.

import { centre, centred, complex, largest, scaled } from "./arrays.js";
import { InputError } from "./errors.js";
import { ifft } from "./fourier.js";
import { adjoint, eigh, gram, product } from "./matrices.js";
import { normalised } from "./sense.js";

const CALIB_WIDTH = 24, POWER_ITERATIONS = 30, GRID_POINTS_PER_KERNEL_SAMPLE = 12;
const EIGENVALUE_FLOOR = 1e-6, THRESHOLD = 0.001;
const SECOND_EIGENVALUE = 0.9, SECOND_SET_SHARE = 0.01, SEARCH_GRID = [32, 32];

/** Return maps (coil, rows, columns) of unit root sum of squares from the calibration (coil, ky, kx). */
export function espiritMaps(calibration, shape, kernelWidth) {
  const { block } = cutAndScale(calibration, kernelWidth);
  const projector = signalProjector(block, kernelWidth, 0);
  const grid = shape.map((n) => Math.min(n, GRID_POINTS_PER_KERNEL_SAMPLE * kernelWidth));
  const { vectors } = eigenvectors(windowFilter(projector, block.shape[0], kernelWidth), kernelWidth, grid, block, 1);
  return normalised(onImageGrid(vectors, shape));
}

/** Tell whether one set of maps cannot explain the calibration: the object folds over. */
export function needsTwoSets(calibration, noise, kernelWidth) {
  if (calibration.shape[0] === 1) return false;
  const { block, unit } = cutAndScale(calibration, kernelWidth);
  const projector = signalProjector(block, kernelWidth, noise / unit);
  const filter = windowFilter(projector, block.shape[0], kernelWidth);
  const { second } = eigenvectors(filter, kernelWidth, SEARCH_GRID, block, 2);
  const images = ifft(centred(block, SEARCH_GRID));
  const [rows, columns] = SEARCH_GRID;
  let total = 0, folded = 0;
  for (let coil = 0; coil < images.shape[0]; coil++) {
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const from = 2 * ((coil * rows + ((row + centre(rows)) % rows)) * columns + ((column + centre(columns)) % columns));
        const energy = images.data[from] ** 2 + images.data[from + 1] ** 2;
        total += energy;
        if (second[row * columns + column] > SECOND_EIGENVALUE) folded += energy;
      }
    }
  }
  return folded > SECOND_SET_SHARE * total;
}

function cutAndScale(calibration, kernelWidth) {
  const [, ky, kx] = calibration.shape;
  if (Math.min(ky, kx) < kernelWidth) {
    throw new InputError(`the calibration lines are ${ky} x ${kx} samples, expected ${kernelWidth} x ${kernelWidth} or more`);
  }
  const block = centred(calibration, [Math.min(ky, CALIB_WIDTH), Math.min(kx, CALIB_WIDTH)]);
  const unit = largest(block);
  if (unit === 0) throw new InputError("the calibration lines are zero, expected a signal");
  return { block: scaled(block, 1 / unit), unit };
}

// The projector on V_parallel, the windows' directions that hold signal.
function signalProjector(calibration, width, noise) {
  const [nCoils, ky, kx] = calibration.shape;
  const down = ky - width + 1, right = kx - width + 1;
  const windows = complex(nCoils * width * width, down * right);
  let to = 0;
  for (let coil = 0; coil < nCoils; coil++) {
    for (let dy = 0; dy < width; dy++) {
      for (let dx = 0; dx < width; dx++) {
        for (let y = 0; y < down; y++) {
          const from = 2 * ((coil * ky + y + dy) * kx + dx);
          windows.data.set(calibration.data.subarray(from, from + 2 * right), to);
          to += 2 * right;
        }
      }
    }
  }
  const [rows, columns] = windows.shape;
  const few = columns < rows;
  const { values, vectors } = eigh(gram(few ? adjoint(windows) : windows));
  const n = values.length;
  const edge = 2 * noise ** 2 * (Math.sqrt(rows) + Math.sqrt(columns)) ** 2;
  const least = Math.max(THRESHOLD * values[n - 1], edge);
  const chosen = [...values.keys()].filter((i) => values[i] > least || i === n - 1);
  const basis = complex(n, chosen.length);
  for (let i = 0; i < n; i++) {
    chosen.forEach((j, k) => {
      const scale = few ? 1 / Math.sqrt(values[j]) : 1;
      basis.data[2 * (i * chosen.length + k)] = vectors.data[2 * (i * n + j)] * scale;
      basis.data[2 * (i * chosen.length + k) + 1] = vectors.data[2 * (i * n + j) + 1] * scale;
    });
  }
  return gram(few ? product(windows, basis) : basis);
}

// W as a k-space filter, (dy, dx, coil, coil): project each window, average the overlaps.
function windowFilter(projector, nCoils, width) {
  const span = 2 * width - 1, n = nCoils * width * width;
  const filter = complex(span, span, nCoils, nCoils);
  for (let c = 0; c < nCoils; c++) {
    for (let y = 0; y < width; y++) {
      for (let x = 0; x < width; x++) {
        const row = (c * width + y) * width + x;
        for (let d = 0; d < nCoils; d++) {
          for (let v = 0; v < width; v++) {
            for (let u = 0; u < width; u++) {
              const from = 2 * (row * n + (d * width + v) * width + u);
              const to = 2 * ((((width - 1 - y + v) * span + width - 1 - x + u) * nCoils + c) * nCoils + d);
              filter.data[to] += projector.data[from] / width ** 2;
              filter.data[to + 1] += projector.data[from + 1] / width ** 2;
            }
          }
        }
      }
    }
  }
  return filter;
}

// The first eigenvectors (coil, *grid) of G_q on a periodic grid that starts at the image's centre, by
// orthogonal iteration from the principal coils, and the second eigenvalues where they are wanted.
function eigenvectors(filter, width, [rows, columns], calibration, nSets) {
  const [span, , nCoils] = filter.shape;
  const starts = principalCoils(calibration, nSets);
  const vectors = complex(nCoils, rows, columns), second = new Float64Array(rows * columns);
  const entries = nCoils * nCoils;
  const phasor = (n, place, shift) => (-2 * Math.PI * ((place * (shift - (span - 1) / 2)) % n)) / n;
  const alongRows = new Float64Array(2 * span * entries);
  const operator = new Float64Array(2 * entries);
  const [state, next] = [0, 1].map(() => starts.map((start) => start.slice()));
  for (let row = 0; row < rows; row++) {
    weigh(filter.data, alongRows, span, span * entries, (shift) => phasor(rows, row, shift));
    for (let column = 0; column < columns; column++) {
      weigh(alongRows, operator, span, entries, (shift) => phasor(columns, column, shift));
      for (let coil = 0; coil < nCoils; coil++) operator[2 * coil * (nCoils + 1)] += EIGENVALUE_FLOOR;
      starts.forEach((start, set) => state[set].set(start));
      let size = 0;
      for (let i = 0; i < POWER_ITERATIONS; i++) {
        for (let set = 0; set < nSets; set++) {
          applyTo(operator, state[set], next[set], nCoils);
          if (set === 1) removePart(next[1], state[0]);
          size = normaliseVector(next[set]);
          state[set].set(next[set]);
        }
      }
      second[row * columns + column] = size;
      for (let coil = 0; coil < nCoils; coil++) {
        const to = 2 * ((coil * rows + row) * columns + column);
        vectors.data[to] = state[0][2 * coil];
        vectors.data[to + 1] = state[0][2 * coil + 1];
      }
    }
  }
  return { vectors, second };
}

// to = sum_k exp(i angle(k)) from[k], for blocks of so many complex numbers.
function weigh(from, to, n, block, angle) {
  to.fill(0);
  for (let k = 0; k < n; k++) {
    const cos = Math.cos(angle(k)), sin = Math.sin(angle(k));
    let place = 2 * k * block;
    for (let i = 0; i < 2 * block; i += 2, place += 2) {
      to[i] += from[place] * cos - from[place + 1] * sin;
      to[i + 1] += from[place] * sin + from[place + 1] * cos;
    }
  }
}

function applyTo(operator, vector, result, n) {
  let place = 0;
  for (let i = 0; i < n; i++) {
    let re = 0, im = 0;
    for (let j = 0; j < n; j++, place += 2) {
      re += operator[place] * vector[2 * j] - operator[place + 1] * vector[2 * j + 1];
      im += operator[place] * vector[2 * j + 1] + operator[place + 1] * vector[2 * j];
    }
    result[2 * i] = re;
    result[2 * i + 1] = im;
  }
}

function removePart(vector, unit) {
  let re = 0, im = 0;
  for (let i = 0; i < vector.length; i += 2) {
    re += unit[i] * vector[i] + unit[i + 1] * vector[i + 1];
    im += unit[i] * vector[i + 1] - unit[i + 1] * vector[i];
  }
  for (let i = 0; i < vector.length; i += 2) {
    vector[i] -= re * unit[i] - im * unit[i + 1];
    vector[i + 1] -= re * unit[i + 1] + im * unit[i];
  }
}

function normaliseVector(vector) {
  let energy = 0;
  for (const part of vector) energy += part * part;
  const size = Math.sqrt(energy);
  for (let i = 0; i < vector.length; i++) vector[i] /= size;
  return size;
}

// The unit combinations of the coils that hold most of the calibration's energy, each (coil).
function principalCoils(calibration, n) {
  const nCoils = calibration.shape[0];
  const { vectors } = eigh(gram({ shape: [nCoils, calibration.data.length / 2 / nCoils], data: calibration.data }));
  return Array.from({ length: n }, (_, set) => {
    const vector = new Float64Array(2 * nCoils);
    for (let coil = 0; coil < nCoils; coil++) {
      const from = 2 * (coil * nCoils + nCoils - 1 - set);
      vector[2 * coil] = vectors.data[from];
      vector[2 * coil + 1] = vectors.data[from + 1];
    }
    return vector;
  });
}

function onImageGrid(vectors, [rows, columns]) {
  const [nCoils, coarseRows, coarseColumns] = vectors.shape;
  const down = splineMatrix(coarseRows, rows), right = splineMatrix(coarseColumns, columns);
  const wide = complex(nCoils, coarseRows, columns);
  for (let line = 0; line < nCoils * coarseRows; line++) {
    for (let column = 0; column < columns; column++) {
      let re = 0, im = 0;
      for (let k = 0; k < coarseColumns; k++) {
        const weight = right[column * coarseColumns + k], from = 2 * (line * coarseColumns + k);
        re += weight * vectors.data[from];
        im += weight * vectors.data[from + 1];
      }
      wide.data[2 * (line * columns + column)] = re;
      wide.data[2 * (line * columns + column) + 1] = im;
    }
  }
  const maps = complex(nCoils, rows, columns);
  for (let coil = 0; coil < nCoils; coil++) {
    for (let row = 0; row < rows; row++) {
      const to = 2 * (coil * rows + row) * columns;
      for (let k = 0; k < coarseRows; k++) {
        const weight = down[row * coarseRows + k], from = 2 * (coil * coarseRows + k) * columns;
        for (let i = 0; i < 2 * columns; i++) maps.data[to + i] += weight * wide.data[from + i];
      }
    }
  }
  return maps;
}

// Periodic cubic-spline interpolation, (fine, coarse): nodes start at the image's centre.
function splineMatrix(nCoarse, nFine) {
  const basis = (position, node) => {
    const around = (((position - node + nCoarse / 2) % nCoarse) + nCoarse) % nCoarse;
    const distance = Math.abs(around - nCoarse / 2);
    return Math.max(2 - distance, 0) ** 3 - 4 * Math.max(1 - distance, 0) ** 3;
  };
  const atNodes = new Float64Array(nCoarse * nCoarse);
  for (let i = 0; i < nCoarse; i++) for (let j = 0; j < nCoarse; j++) atNodes[i * nCoarse + j] = basis(i, j);
  const weights = new Float64Array(nFine * nCoarse);
  for (let pixel = 0; pixel < nFine; pixel++) {
    const position = (pixel - centre(nFine)) * (nCoarse / nFine);
    for (let node = 0; node < nCoarse; node++) weights[pixel * nCoarse + node] = basis(position, node);
  }
  // The matrix at the nodes is symmetric: weights = basis(pixels) atNodes^-1, by Gauss elimination.
  return solveSymmetric(atNodes, weights, nCoarse);
}

function solveSymmetric(matrix, rightSides, n) {
  const a = matrix.slice(), x = rightSides.slice(), m = x.length / n;
  for (let k = 0; k < n; k++) {
    let pivot = k;
    for (let i = k + 1; i < n; i++) if (Math.abs(a[i * n + k]) > Math.abs(a[pivot * n + k])) pivot = i;
    if (pivot !== k) {
      for (let j = 0; j < n; j++) [a[k * n + j], a[pivot * n + j]] = [a[pivot * n + j], a[k * n + j]];
      for (let r = 0; r < m; r++) [x[r * n + k], x[r * n + pivot]] = [x[r * n + pivot], x[r * n + k]];
    }
    for (let i = k + 1; i < n; i++) {
      const factor = a[i * n + k] / a[k * n + k];
      if (factor === 0) continue;
      for (let j = k; j < n; j++) a[i * n + j] -= factor * a[k * n + j];
      for (let r = 0; r < m; r++) x[r * n + i] -= factor * x[r * n + k];
    }
  }
  for (let r = 0; r < m; r++) {
    for (let i = n - 1; i >= 0; i--) {
      for (let j = i + 1; j < n; j++) x[r * n + i] -= a[i * n + j] * x[r * n + j];
      x[r * n + i] /= a[i * n + i];
    }
  }
  return x;
}
