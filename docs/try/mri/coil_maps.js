// Coil maps by the method that the samples call for, zero where there is no object: the JavaScript of
// src/sbim_deploy/mri/map_choice.py and support.py.

import { centre, centred, complex, copy, energy, magnitudes, norm, percentile, addTo } from "./arrays.js";
import { InputError } from "./errors.js";
import { espiritMaps, needsTwoSets } from "./espirit.js";
import { MIN_CALIB_LINES, calibrationBlock, centredMask, sampled } from "./masks.js";
import { nonlinearInversionMaps } from "./nonlinear_inversion.js";
import { EPS } from "./noise_windows.js";
import { conjugateGradients, normalised, sense } from "./sense.js";

const MIN_ESPIRIT_LINES = 8, MIN_FOLDING_LINES = 16, MIN_KERNEL_WIDTH = 3, MAX_KERNEL_WIDTH = 6;
const MIN_MISFIT_RATIO = 0.9, MAX_MISFIT_RATIO = 1.25, REGULAR_DISTANCES = 3;
const COARSE_GRID = 64, REGULARISATION = 3e-3, N_CG = 20;
const SMOOTHING = 1.5, MARGIN = 3, BRIGHT_SHARE = 0.1, NOISE_FACTOR = 3, MAX_SUPPORT_MISFIT_RATIO = 1.15;

export const NLINV = "nonlinear inversion", ESPIRIT = "ESPIRiT";
export const BOTH = "the mean of nonlinear inversion and ESPIRiT";
export const ONES = "ones (a single coil without calibration lines)";

/** Return { maps, method, nLines, folds } of k-space (coil, rows, columns) and its mask. */
export function estimateMaps(kspace, mask, noise, onStep = () => {}) {
  const [nCoils, rows, columns] = kspace.shape;
  const [rowRun, columnRun] = calibrationBlock(mask, rows, columns);
  const nLines = Math.min(rowRun[1] - rowRun[0], columnRun[1] - columnRun[0]);
  if (nLines < MIN_CALIB_LINES) {
    if (nCoils === 1) {
      const ones = complex(1, rows, columns);
      for (let i = 0; i < ones.data.length; i += 2) ones.data[i] = 1;
      return { maps: ones, method: ONES, nLines, folds: false };
    }
    if (isLattice(mask)) {
      throw new InputError(
        `${nLines} calibration lines in the centre of k-space, expected at least ${MIN_CALIB_LINES} to estimate ` +
          "the coil maps: sbim-deploy recon takes maps of yours (--maps)",
      );
    }
  }
  const width = Math.min(Math.max(Math.floor(nLines / 2), MIN_KERNEL_WIDTH), MAX_KERNEL_WIDTH);
  const calibration = block(kspace, rowRun, columnRun);
  let maps = nonlinearInversionMaps(kspace, mask, onStep);
  let method = NLINV;
  if (nLines >= MIN_ESPIRIT_LINES) {
    const other = espiritMaps(calibration, [rows, columns], width);
    const misfit = dataMisfit(kspace, mask, maps), misfitOfOther = dataMisfit(kspace, mask, other);
    if (misfitOfOther < MIN_MISFIT_RATIO * misfit) [maps, method] = [other, ESPIRIT];
    else if (misfitOfOther < MAX_MISFIT_RATIO * misfit) [maps, method] = [meanMaps(maps, other), BOTH];
  }
  const folds = nLines >= MIN_FOLDING_LINES && needsTwoSets(calibration, noise, width);
  const support = objectSupport(kspace, mask, maps);
  const shown = copy(maps);
  const pixels = rows * columns;
  for (let coil = 0; coil < nCoils; coil++) {
    const measured = kspace.data.subarray(2 * coil * pixels, 2 * (coil + 1) * pixels).some((each) => each !== 0);
    for (let i = 0; i < pixels; i++) {
      if (!measured || !support[i]) shown.data.fill(0, 2 * (coil * pixels + i), 2 * (coil * pixels + i) + 2);
    }
  }
  return { maps: shown, method, nLines, folds };
}

function block(kspace, [top, bottom], [left, right]) {
  const [nCoils, rows, columns] = kspace.shape;
  const result = complex(nCoils, bottom - top, right - left);
  let to = 0;
  for (let coil = 0; coil < nCoils; coil++) {
    for (let row = top; row < bottom; row++, to += 2 * (right - left)) {
      const from = 2 * ((coil * rows + row) * columns + left);
      result.data.set(kspace.data.subarray(from, from + 2 * (right - left)), to);
    }
  }
  return result;
}

// The mean of two estimates, with the phase of the first in each pixel.
function meanMaps(first, second) {
  const [nCoils, rows, columns] = first.shape;
  const pixels = rows * columns;
  const mean = complex(nCoils, rows, columns);
  for (let i = 0; i < pixels; i++) {
    let re = 0, im = 0;
    for (let coil = 0; coil < nCoils; coil++) {
      const at = 2 * (coil * pixels + i);
      re += second.data[at] * first.data[at] + second.data[at + 1] * first.data[at + 1];
      im += second.data[at] * first.data[at + 1] - second.data[at + 1] * first.data[at];
    }
    const size = Math.hypot(re, im);
    const cos = size > 0 ? re / size : 1, sin = size > 0 ? im / size : 0;
    for (let coil = 0; coil < nCoils; coil++) {
      const at = 2 * (coil * pixels + i);
      mean.data[at] = first.data[at] + second.data[at] * cos - second.data[at + 1] * sin;
      mean.data[at + 1] = first.data[at + 1] + second.data[at] * sin + second.data[at + 1] * cos;
    }
  }
  return normalised(mean);
}

function isLattice(mask) {
  if (mask.rows > 1 && mask.columns > 1) return false;
  const places = [...mask.data.keys()].filter((i) => mask.data[i]);
  return new Set(places.slice(1).map((place, i) => place - places[i])).size <= REGULAR_DISTANCES;
}

/** Return |A x - y| / |y| over the central samples, for the image x that fits them best. */
export function dataMisfit(kspace, mask, maps) {
  return senseImage(...coarse(kspace, mask, maps)).misfit;
}

function coarse(kspace, mask, maps) {
  const shape = kspace.shape.slice(1);
  const grid = shape.map((n) => Math.min(n, COARSE_GRID));
  const coarseMask = centredMask(mask, grid);
  const down = nearest(shape[0], grid[0]), right = nearest(shape[1], grid[1]);
  const picked = complex(maps.shape[0], ...grid);
  let to = 0;
  for (let coil = 0; coil < maps.shape[0]; coil++) {
    for (const row of down) {
      for (const column of right) {
        const from = 2 * ((coil * shape[0] + row) * shape[1] + column);
        picked.data[to++] = maps.data[from];
        picked.data[to++] = maps.data[from + 1];
      }
    }
  }
  return [sampled(centred(kspace, grid), coarseMask), coarseMask, picked];
}

// Halves go to the even number, as numpy.rint.
function rint(x) {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 === 0 ? low : low + 1;
}

// Which of nFrom pixels is nearest to each of nTo over the same field of view.
function nearest(nFrom, nTo) {
  return Array.from({ length: nTo }, (_, i) => {
    const place = rint((i - centre(nTo)) * (nFrom / nTo)) + centre(nFrom);
    return ((place % nFrom) + nFrom) % nFrom;
  });
}

function senseImage(kspace, mask, maps) {
  const operator = sense(maps, mask);
  const data = operator.adjoint(kspace);
  const normal = (image) => addTo(operator.normal(image), image, REGULARISATION);
  const image = conjugateGradients(normal, copy(data), EPS ** 2 * energy(data), N_CG);
  const left = addTo(operator.forward(image), kspace, -1);
  return { magnitude: magnitudes(image), misfit: norm(left) / (norm(kspace) || 1) };
}

/** Return where the object is, 1 or 0 for each pixel, with a margin. */
export function objectSupport(kspace, mask, maps) {
  const [coarseKspace, coarseMask, coarseMaps] = coarse(kspace, mask, maps);
  const [, rows, columns] = coarseMaps.shape;
  const { magnitude, misfit } = senseImage(coarseKspace, coarseMask, coarseMaps);
  const smooth = smoothed(smoothed(magnitude, rows, columns, true), rows, columns, false);
  const least = Math.min(BRIGHT_SHARE * percentile(smooth, 99), NOISE_FACTOR * percentile(smooth, 10));
  let inside = filled(Uint8Array.from(smooth, (each) => (each > least ? 1 : 0)), rows, columns);
  for (let i = 0; i < MARGIN; i++) inside = dilated(inside, rows, columns);
  const masked = copy(coarseMaps);
  masked.data.forEach((_, i) => {
    if (!inside[(i >> 1) % inside.length]) masked.data[i] = 0;
  });
  const [fineRows, fineColumns] = kspace.shape.slice(1);
  const support = new Uint8Array(fineRows * fineColumns).fill(1);
  if (senseImage(coarseKspace, coarseMask, masked).misfit > MAX_SUPPORT_MISFIT_RATIO * misfit) return support;
  const down = nearest(rows, fineRows), right = nearest(columns, fineColumns);
  return support.map((_, i) => inside[down[Math.floor(i / fineColumns)] * columns + right[i % fineColumns]]);
}

// A periodic Gaussian along one axis, cut at four standard deviations.
function smoothed(image, rows, columns, down) {
  const reach = Math.floor(4 * SMOOTHING + 0.5);
  const weights = Array.from({ length: 2 * reach + 1 }, (_, i) => Math.exp(-0.5 * ((i - reach) / SMOOTHING) ** 2));
  const total = weights.reduce((sum, each) => sum + each, 0);
  return image.map((_, i) => {
    const row = Math.floor(i / columns), column = i % columns;
    let sum = 0;
    for (let k = -reach; k <= reach; k++) {
      const at = down
        ? ((((row + k) % rows) + rows) % rows) * columns + column
        : row * columns + ((((column + k) % columns) + columns) % columns);
      sum += weights[k + reach] * image[at];
    }
    return sum / total;
  });
}

function neighbours(place, rows, columns) {
  const row = Math.floor(place / columns), column = place % columns;
  return [
    ...(row > 0 ? [place - columns] : []),
    ...(row < rows - 1 ? [place + columns] : []),
    ...(column > 0 ? [place - 1] : []),
    ...(column < columns - 1 ? [place + 1] : []),
  ];
}

// What the edge does not reach over pixels that are 0 counts as inside.
function filled(inside, rows, columns) {
  const outside = new Uint8Array(inside.length);
  const waiting = [...inside.keys()].filter((i) => !inside[i] && neighbours(i, rows, columns).length < 4);
  for (const start of waiting) outside[start] = 1;
  while (waiting.length) {
    for (const next of neighbours(waiting.pop(), rows, columns)) {
      if (!inside[next] && !outside[next]) {
        outside[next] = 1;
        waiting.push(next);
      }
    }
  }
  return outside.map((each) => 1 - each);
}

function dilated(inside, rows, columns) {
  return inside.map((each, i) => (each || neighbours(i, rows, columns).some((next) => inside[next]) ? 1 : 0));
}
