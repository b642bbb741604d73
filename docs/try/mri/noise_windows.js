// The noise of k-space where its object is strong: in small windows.
// The JavaScript of src/sbim_deploy/mri/noise_windows.py, which says why, and where its numbers come from.

import { addTo, centre, complex, energy, median, transposed } from "./arrays.js";
import { calibrationBlock, mask as newMask, transposedMask } from "./masks.js";
import { adjoint, eigh, gram, identity, product, scaledBy, trace } from "./matrices.js";
import { conjugateGradients } from "./sense.js";

export const EPS = 2 ** -23; // of single precision
const WINDOW_SIZE = 96, WINDOWS_PER_DIMENSION = 4;
const MAX_WINDOW_WIDTH = 5, MAX_WINDOW_HEIGHT = 16;
const MIN_LINES = 4, MAX_LINES = 24, MAX_WINDOWS = 6000;
const STRIPS = [1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1];
const PLATEAU = 1.5, MIN_PLATEAU = 0.15;
const ITERATIONS = 3, SOLVER_STEPS = 8, MIN_EIGENVALUE = 0.01;
export const STEEP_RATIO = 0.16, OBJECT_RATIO = 0.06, MAX_WINDOWED_EDGE = 0.3;

/** Return { covariance, nSamples, profile, whole, source }, or null where there are too few windows. */
export function noiseInWindows(kspace, mask, guess) {
  const windows = findWindows(kspace, mask);
  return windows && fitWindows(windows, guess);
}

function findWindows(kspace, mask) {
  let [rows, columns] = centreBlock(mask, kspace.shape[1], kspace.shape[2]);
  if (rows[1] - rows[0] < columns[1] - columns[0]) {
    kspace = transposed(kspace);
    mask = transposedMask(mask);
    [rows, columns] = [columns, rows];
  }
  const [nCoils, nRows, nColumns] = kspace.shape;
  const nLines = columns[1] - columns[0];
  let lines, across = null, source;
  if (nLines >= MIN_LINES) {
    const first = columns[0] + Math.floor(Math.max(nLines - MAX_LINES, 0) / 2);
    lines = Array.from({ length: Math.min(MAX_LINES, columns[1] - first) }, (_, i) => first + i);
    source = "calibration lines";
  } else if (mask.rows === 1) {
    rows = [0, nRows];
    const reach = (column) => Math.abs(column / centre(nColumns) - 1);
    lines = Array.from({ length: nColumns }, (_, i) => i).filter((i) => mask.data[i] && reach(i) >= STRIPS[0]);
    across = lines.map(reach);
    source = "sampled lines";
  } else {
    return null;
  }
  const nRegion = rows[1] - rows[0];
  const shape = windowShape(nCoils, nRegion, lines.length, !(across && across.length));
  if (!shape) return null;
  const [height, width] = shape;
  const middle = centre(nRows) - rows[0];
  const reach = Math.min(middle, nRegion - middle);
  const chosen = [];
  for (let y = 0; y + height <= nRegion; y++) {
    const side = y + height <= middle ? 0 : y > middle ? 1 : -1;
    if (side < 0) continue;
    const along = Math.abs(y + (height - 1) / 2 - middle) / reach;
    for (let x = 0; x + width <= lines.length; x++) {
      const distance = Math.hypot(along, across && across.length ? across[x] : 0);
      if (distance >= STRIPS[0] && distance <= Math.SQRT2) chosen.push({ y, x, side, distance });
    }
  }
  const every = Math.ceil(chosen.length / MAX_WINDOWS) || 1;
  const taken = chosen.filter((_, i) => i % every === 0);
  const samples = ({ y, x }) => {
    const window = new Float64Array(2 * nCoils * height * width);
    let to = 0;
    for (let coil = 0; coil < nCoils; coil++) {
      for (let dy = 0; dy < height; dy++) {
        for (let dx = 0; dx < width; dx++, to += 2) {
          const from = 2 * ((coil * nRows + rows[0] + y + dy) * nColumns + lines[x + dx]);
          window[to] = kspace.data[from];
          window[to + 1] = kspace.data[from + 1];
        }
      }
    }
    return window;
  };
  const whole = 2 * reach >= 0.6 * nRows;
  return { taken, samples, nCoils, nTaps: height * width, nSamples: chosen.length, whole, source };
}

// The block around the centre that was sampled in full, as long as the sampled lines are.
function centreBlock(mask, rows, columns) {
  if (mask.rows > 1 && mask.columns > 1) {
    const column = newMask(rows, 1), row = newMask(1, columns);
    for (let i = 0; i < rows; i++) column.data[i] = mask.data[i * columns + centre(columns)];
    for (let i = 0; i < columns; i++) row.data[i] = mask.data[centre(rows) * columns + i];
    const vertical = calibrationBlock(column, rows, columns)[0];
    const horizontal = calibrationBlock(row, rows, columns)[1];
    let sampled = 0;
    for (let i = vertical[0]; i < vertical[1]; i++) {
      for (let j = horizontal[0]; j < horizontal[1]; j++) sampled += mask.data[i * columns + j];
    }
    const size = (vertical[1] - vertical[0]) * (horizontal[1] - horizontal[0]);
    if (size && sampled / size > 0.99) return [vertical, horizontal];
  }
  return calibrationBlock(mask, rows, columns);
}

function windowShape(nCoils, nRows, nLines, sideBySide) {
  for (let width = sideBySide ? Math.min(MAX_WINDOW_WIDTH, Math.floor(nLines / 2)) : 1; width > 0; width--) {
    const nWindows = Math.floor(((nLines - width + 1) * nRows) / 2);
    const most = Math.min(Math.max(WINDOW_SIZE, nCoils), Math.floor(nWindows / WINDOWS_PER_DIMENSION));
    const height = Math.min(
      Math.floor(Math.floor(most / nCoils) / width),
      MAX_WINDOW_HEIGHT,
      Math.floor(nRows / 8),
    );
    if (height >= Math.min(width, 2)) return [height, width];
  }
  return null;
}

function fitWindows(windows, covariance) {
  const { nCoils, nTaps, nSamples, whole, source } = windows;
  const { grams, counts } = windowGrams(windows);
  if (counts.flat().includes(0)) return null;
  let bases, profile;
  for (let round = 0; round < ITERATIONS; round++) {
    const [whitening, colouring] = roots(covariance);
    let energies;
    ({ bases, energies, profile } = whitenedNoise(grams, counts, overTaps(whitening, nTaps)));
    const level = centreLevel(profile, whole);
    energies = energies.map((each) => ({ shape: each.shape, data: each.data.map((part) => part * level) }));
    covariance = product(product(colouring, unproject(bases, energies, nCoils)), colouring);
  }
  const share = (bases[0].shape[1] + bases[1].shape[1]) / 2 / (nCoils * nTaps);
  return { covariance, nSamples: Math.max(Math.floor(share * nSamples), 1), profile, whole, source };
}

// The sums of w w^H over the windows of each side and strip, and how many these are.
function windowGrams({ taken, samples, nCoils, nTaps }) {
  const nStrips = STRIPS.length - 1, n = nCoils * nTaps;
  const members = [0, 1].map(() => STRIPS.slice(1).map(() => []));
  for (const each of taken) {
    let strip = STRIPS.findLastIndex((edge) => edge <= each.distance);
    strip = Math.min(strip, nStrips - 1);
    members[each.side][strip].push(each);
  }
  const grams = members.map((strips) =>
    strips.map((windows) => {
      const matrix = complex(n, windows.length);
      windows.forEach((window, column) => {
        const values = samples(window);
        for (let i = 0; i < n; i++) {
          matrix.data[2 * (i * windows.length + column)] = values[2 * i];
          matrix.data[2 * (i * windows.length + column) + 1] = values[2 * i + 1];
        }
      });
      return gram(matrix);
    }),
  );
  return { grams, counts: members.map((strips) => strips.map((windows) => windows.length)) };
}

// The Kronecker product of a (coil, coil) matrix and the unit matrix over the taps.
function overTaps(matrix, nTaps) {
  const n = matrix.shape[0];
  const result = complex(n * nTaps, n * nTaps);
  for (let c = 0; c < n; c++) {
    for (let d = 0; d < n; d++) {
      for (let tap = 0; tap < nTaps; tap++) {
        const to = 2 * ((c * nTaps + tap) * n * nTaps + d * nTaps + tap);
        result.data[to] = matrix.data[2 * (c * n + d)];
        result.data[to + 1] = matrix.data[2 * (c * n + d) + 1];
      }
    }
  }
  return result;
}

const sum = (numbers) => numbers.reduce((total, each) => total + each, 0);

function weightedSum(matrices, weights) {
  const total = complex(...matrices[0].shape);
  matrices.forEach((matrix, i) => addTo(total, matrix, weights[i]));
  return total;
}

// The real part of the trace of a b, of Hermitian matrices.
function traceOfProduct(a, b) {
  let total = 0;
  for (let i = 0; i < a.data.length; i++) total += a.data[i] * b.data[i];
  return total;
}

function whitenedNoise(grams, counts, whiten) {
  const perSide = counts.map(sum);
  const means = grams.map((side, i) =>
    product(product(whiten, weightedSum(side, side.map(() => 1 / perSide[i]))), whiten),
  );
  const bases = [0, 1].map((side) => noiseBasis(means[side], means[1 - side]));
  const filters = bases.map((basis) => product(whiten, basis));
  const projectors = filters.map((filter) => gram(filter));
  const strips = counts[0].map((_, s) => s);
  const profileOf = (other) =>
    strips.map(
      (s) =>
        sum([0, 1].map((side) => traceOfProduct(grams[side ^ other][s], projectors[side]) / bases[side].shape[1])) /
        (counts[0][s] + counts[1][s]),
    );
  const inside = profileOf(0), outside = profileOf(1);
  const energies = [0, 1].map((side) => {
    const both = weightedSum(
      [...grams[side], ...grams[1 - side]],
      [
        ...inside.map((level) => 1 / level / (2 * perSide[side])),
        ...outside.map((level) => 1 / level / (2 * perSide[1 - side])),
      ],
    );
    return product(adjoint(filters[side]), product(both, filters[side]));
  });
  return { bases, energies, profile: strips.map((s) => Math.sqrt(inside[s] * outside[s])) };
}

// The directions of least energy of one side's windows, up to where the other's energy rises.
function noiseBasis(fitted, other) {
  const { vectors } = eigh(fitted);
  const n = vectors.shape[0];
  const applied = product(other, vectors);
  const energies = new Float64Array(n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      const place = 2 * (i * n + j);
      energies[j] += vectors.data[place] * applied.data[place] + vectors.data[place + 1] * applied.data[place + 1];
    }
  }
  const limit = PLATEAU * median(energies.slice(0, Math.max(Math.floor(n / 4), 1)));
  const at = (i) => energies[Math.min(Math.max(i, 0), n - 1)];
  let rank = 0;
  while (rank < n && !((at(rank - 1) + at(rank) + at(rank + 1)) / 3 > limit)) rank++;
  return firstColumns(vectors, Math.max(rank, Math.floor(MIN_PLATEAU * n), 1));
}

export function firstColumns(matrix, m) {
  const [rows, columns] = matrix.shape;
  const result = complex(rows, m);
  for (let i = 0; i < rows; i++) {
    result.data.set(matrix.data.subarray(2 * i * columns, 2 * (i * columns + m)), 2 * i * m);
  }
  return result;
}

function centreLevel(profile, whole) {
  if (whole && profile[2] < STEEP_RATIO * profile[0]) return profile[2];
  if (whole && profile.at(-1) < MAX_WINDOWED_EDGE * profile[1]) return (profile[0] + profile[1]) / 2;
  return median(profile);
}

// The coils' covariance C that the energies V^H (C x I) V in the noise directions come from: least squares.
function unproject(bases, energies, nCoils) {
  const projectors = bases.map((basis) => gram(basis));
  const normal = (coils) => {
    const total = complex(nCoils, nCoils);
    for (const projector of projectors) addTo(total, tracedTaps(mixedTaps(projector, coils), projector, nCoils));
    return total;
  };
  const target = complex(nCoils, nCoils);
  bases.forEach((basis, i) => {
    addTo(target, tracedTaps(product(basis, energies[i]), adjoint(basis), nCoils));
  });
  const nDirections = bases[0].shape[1] + bases[1].shape[1];
  const coils = identity(nCoils, trace(target) / nDirections);
  const residual = addTo({ shape: target.shape, data: target.data.slice() }, normal(coils), -1);
  addTo(coils, conjugateGradients(normal, residual, EPS * energy(target), SOLVER_STEPS));
  const hermitian = addTo(adjoint(coils), coils);
  const { values, vectors } = eigh({ shape: coils.shape, data: hermitian.data.map((part) => part / 2) });
  const least = MIN_EIGENVALUE * values.at(-1);
  return product(scaledBy(vectors, null, values.map((each) => Math.max(each, least))), adjoint(vectors));
}

// Return m with coils mixed: m[p, (d, t)] = sum_c m[p, (c, t)] coils[c, d].
function mixedTaps(matrix, coils) {
  const [rows, n] = matrix.shape;
  const nCoils = coils.shape[0], nTaps = n / nCoils;
  const result = complex(rows, n);
  for (let p = 0; p < rows; p++) {
    for (let c = 0; c < nCoils; c++) {
      for (let d = 0; d < nCoils; d++) {
        const cr = coils.data[2 * (c * nCoils + d)], ci = coils.data[2 * (c * nCoils + d) + 1];
        let from = 2 * (p * n + c * nTaps), to = 2 * (p * n + d * nTaps);
        for (let tap = 0; tap < nTaps; tap++, from += 2, to += 2) {
          const mr = matrix.data[from], mi = matrix.data[from + 1];
          result.data[to] += mr * cr - mi * ci;
          result.data[to + 1] += mr * ci + mi * cr;
        }
      }
    }
  }
  return result;
}

// The sum over the taps of a b, (coil, coil), without the rest of the product.
function tracedTaps(a, b, nCoils) {
  const [n, inner] = a.shape;
  const nTaps = n / nCoils;
  const total = complex(nCoils, nCoils);
  for (let c = 0; c < nCoils; c++) {
    for (let d = 0; d < nCoils; d++) {
      let re = 0, im = 0;
      for (let tap = 0; tap < nTaps; tap++) {
        const row = c * nTaps + tap, column = d * nTaps + tap;
        for (let k = 0; k < inner; k++) {
          const ar = a.data[2 * (row * inner + k)], ai = a.data[2 * (row * inner + k) + 1];
          const br = b.data[2 * (k * n + column)], bi = b.data[2 * (k * n + column) + 1];
          re += ar * br - ai * bi;
          im += ar * bi + ai * br;
        }
      }
      total.data[2 * (c * nCoils + d)] = re;
      total.data[2 * (c * nCoils + d) + 1] = im;
    }
  }
  return total;
}

// C^-1/2 and C^1/2.
function roots(covariance) {
  const { values, vectors } = eigh(covariance);
  const sizes = values.map((each) => Math.sqrt(Math.max(each, EPS ** 2 * values.at(-1))));
  const inverse = product(scaledBy(vectors, null, sizes.map((each) => 1 / each)), adjoint(vectors));
  return [inverse, product(scaledBy(vectors, null, sizes), adjoint(vectors))];
}
