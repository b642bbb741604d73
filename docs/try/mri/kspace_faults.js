// What is visibly wrong with k-space: the JavaScript of src/sbim_deploy/mri/kspace_faults.py, which says why.

import { centre } from "./arrays.js";
import { fft } from "./fourier.js";
import { MIN_CALIB_LINES, calibrationLines, full } from "./masks.js";

const CENTRAL_SHARE = 0.25, LEAST_CENTRAL_ENERGY = 0.6;
const DOUBTED_WIDTH_RATIO = 1.5, REFUSED_WIDTH_RATIO = 2;
const LEAST_SIGNAL = 0.3, LEAST_PEAK = 3, MAX_SHIFT = 1 / 8;
const NEVER_MEASURED = 1e-5, GAP = 100, LEAST_EMPTY_SHARE = 0.1;
const CLIPPED_SAMPLES = 6, SPIKE_RATIO = 8, MIN_AXIS = 16, PLANES_IN_PLACE = 0.6;

const sum = (numbers) => numbers.reduce((total, each) => total + each, 0);
const indexOfLargest = (numbers) => numbers.reduce((best, each, i) => (each > numbers[best] ? i : best), 0);

/** Return what is wrong, { message, fatal } each, with (coil, rows, columns) as it was given.
 *
 * mask is null where every sample counts that is not zero; sds are the standard deviations of each part of a
 * sample of each coil's noise, 0 for a coil that does not count.
 */
export function findFaults(kspace, mask, sds) {
  const last = coilsLast(kspace);
  if (last) return [last];
  const [, rows, columns] = kspace.shape;
  if (Math.min(rows, columns) < MIN_AXIS) return [];
  const loudest = Math.max(...sds);
  const weights = Array.from(sds, (sd) => (!loudest ? 1 : sd > 0 ? (loudest / sd) ** 2 : 0));
  const energy = energyOf(kspace, weights);
  const whole = mask && full(mask, rows, columns).data;
  const sampled = Uint8Array.from(energy, (each, i) => (each > 0 && (!whole || whole[i]) ? 1 : 0));
  const noise = 2 * loudest ** 2 * weights.filter((weight) => weight > 0).length;
  const scan = { energy, sampled, noise, rows, columns, mask };
  const cut = clipped(kspace);
  let changed = transformedAxes(kspace, weights, scan);
  if (cut && changed && !changed.fatal) changed = null; // a centre that was cut off has less of the energy
  return [changed || misplacedCentre(scan) || neverMeasured(scan), cut, spikes(scan), planes(kspace)].filter(Boolean);
}

function along(kspace, axis) {
  const [nCoils, rows, columns] = kspace.shape;
  const result = new Float64Array(kspace.shape[axis]);
  for (let i = 0; i < nCoils * rows * columns; i++) {
    const place = axis === 0 ? Math.floor(i / (rows * columns)) : i % columns;
    result[place] += kspace.data[2 * i] ** 2 + kspace.data[2 * i + 1] ** 2;
  }
  return result;
}

function coilsLast(kspace) {
  const [first, , last] = kspace.shape;
  if (!(last < first && first >= MIN_AXIS)) return null;
  const central = centralEnergy(along(kspace, 0)), centralLast = centralEnergy(along(kspace, 2));
  if (central < LEAST_CENTRAL_ENERGY || (last >= MIN_AXIS && central < centralLast)) return null;
  return {
    message:
      `k-space is ${kspace.shape.join(" x ")}, and its energy is centred along the first axis but not along the ` +
      "last, as if the coils were on the last axis: expected coils x rows x columns, move the coils to the front",
    fatal: true,
  };
}

function planes(kspace) {
  const n = kspace.shape[0], middle = centre(n);
  if (n < MIN_AXIS) return null;
  const energies = along(kspace, 0);
  const share = sum(energies.slice(middle - 1, middle + 2)) / sum(energies);
  if (indexOfLargest(energies) !== middle || share < PLANES_IN_PLACE) return null;
  return {
    message:
      `coil ${middle} of ${n} and its neighbours have most of the energy, as the middle of an axis of k-space: ` +
      "3D k-space is transformed along its third axis first",
    fatal: false,
  };
}

// The mean energy of the measured samples along an axis, 0 for the rows and 1 for the columns.
function profileOf({ energy, rows, columns }, sampled, axis) {
  const total = new Float64Array(axis === 0 ? rows : columns), counts = new Float64Array(total.length);
  energy.forEach((each, i) => {
    const place = axis === 0 ? Math.floor(i / columns) : i % columns;
    if (!sampled[i]) return;
    total[place] += each;
    counts[place]++;
  });
  return total.map((each, i) => (counts[i] ? each / counts[i] : 0));
}

function centralEnergy(profile) {
  const n = profile.length, total = sum(profile);
  const half = Math.max(Math.round((n * CENTRAL_SHARE) / 2), 1);
  return total > 0 ? sum(profile.slice(Math.max(centre(n) - half, 0), centre(n) + half + 1)) / total : 1;
}

// The energy of all coils, (rows, columns).
function energyOf(kspace, weights) {
  const energy = new Float64Array(kspace.data.length / 2 / weights.length);
  for (let i = 0; i < kspace.data.length / 2; i++) {
    const weight = weights[Math.floor(i / energy.length)];
    energy[i % energy.length] += weight * (kspace.data[2 * i] ** 2 + kspace.data[2 * i + 1] ** 2);
  }
  return energy;
}

// How many samples hold the energy of a profile.
function width(profile) {
  const squares = sum(profile.map((each) => each ** 2));
  return squares ? sum(profile) ** 2 / squares : 0;
}

// A profile whose places that were not measured are filled from their neighbours; 0 outside of them.
function filled(profile, isMeasured) {
  let before = -1;
  const result = new Float64Array(profile.length);
  profile.forEach((each, i) => {
    if (!isMeasured[i]) return;
    for (let k = before + 1; before >= 0 && k < i; k++) {
      result[k] = profile[before] + ((each - profile[before]) * (k - before)) / (i - before);
    }
    result[i] = each;
    before = i;
  });
  return result;
}

function transformedAxes(kspace, weights, scan) {
  const { energy, sampled, noise, rows, columns } = scan;
  const total = sum(energy.filter((_, i) => sampled[i]));
  if (total < (1 + LEAST_SIGNAL) * noise * sum(sampled.map(Number))) return null;
  const measured = { shape: [...kspace.shape], data: kspace.data.map((part, i) => part * sampled[(i >> 1) % sampled.length]) };
  const spread = [];
  let fatal = false;
  ["rows (the readout)", "columns (the phase encodes)"].forEach((name, axis) => {
    const n = axis === 0 ? rows : columns, nOthers = axis === 0 ? columns : rows;
    const place = (i) => (axis === 0 ? Math.floor(i / columns) : i % columns);
    const across = (i) => (axis === 0 ? i % columns : Math.floor(i / columns));
    const isMeasured = new Uint8Array(n), share = new Float64Array(nOthers);
    sampled.forEach((each, i) => {
      if (!each) return;
      isMeasured[place(i)] = 1;
      share[across(i)] += 1 / n;
    });
    const profile = filled(profileOf(scan, sampled, axis).map((each) => Math.max(each - noise, 0)), isMeasured);
    const other = new Float64Array(n);
    energyOf(fft(measured, [axis - 2]), weights).forEach((each, i) => {
      other[place(i)] += (each - noise * share[across(i)]) / nOthers;
    });
    const ratio = width(profile) / Math.max(width(other.map((each) => Math.max(each, 0))), 1);
    if (ratio <= DOUBTED_WIDTH_RATIO) return;
    spread.push(name);
    const shift = centre(n) - indexOfLargest(profile);
    const central = centralEnergy(profile.map((_, i) => profile[(((i - shift) % n) + n) % n]));
    fatal ||= ratio > REFUSED_WIDTH_RATIO && central < LEAST_CENTRAL_ENERGY;
  });
  if (!spread.length) return null;
  const both = spread.length === 2;
  return {
    message: both
      ? "the energy is spread over rows and columns as in an image: expected k-space, apply the centred Fourier transform along both"
      : `the energy is spread over the ${spread[0]} as in an image: expected k-space along both axes, apply the centred Fourier transform along this one`,
    fatal,
  };
}

function misplacedCentre(scan) {
  for (const [axis, name] of ["rows", "columns"].entries()) {
    const profile = profileOf(scan, scan.energy.map((each) => Number(each > 0)), axis);
    const n = profile.length, peak = indexOfLargest(profile);
    if (Math.abs(peak - centre(n)) > MAX_SHIFT * n && profile[peak] > LEAST_PEAK * scan.noise) {
      const wayOut =
        Math.min(peak, n - peak) <= MAX_SHIFT * n
          ? "the transform was not centred: apply fftshift to k-space (and to its mask)"
          : "shift k-space so that its largest sample is in the middle";
      return {
        message: `the energy of k-space peaks at ${peak} of its ${n} ${name}, expected near ${centre(n)}: ${wayOut}`,
        fatal: true,
      };
    }
  }
  return scan.mask && shiftedMask(scan);
}

function shiftedMask({ mask, rows, columns }) {
  const turned = { ...mask, data: mask.data.slice() };
  mask.data.forEach((each, i) => {
    const row = (Math.floor(i / mask.columns) + centre(mask.rows)) % mask.rows;
    turned.data[row * mask.columns + (((i % mask.columns) + centre(mask.columns)) % mask.columns)] = each;
  });
  const own = calibrationLines(mask, rows, columns), shifted = calibrationLines(turned, rows, columns);
  if (shifted < Math.max(MIN_CALIB_LINES, 2 * own + 1)) return null;
  return {
    message:
      `the mask takes ${own} lines around the centre of k-space and ${shifted} around its edges: it looks shifted ` +
      "by half of the axis, apply fftshift to it",
    fatal: true,
  };
}

function neverMeasured({ energy, mask, rows, columns }) {
  if (mask) return null;
  const mean = (axis) => {
    const total = new Float64Array(axis === 0 ? rows : columns);
    energy.forEach((each, i) => (total[axis === 0 ? Math.floor(i / columns) : i % columns] += each));
    return total.map((each) => each / (axis === 0 ? columns : rows));
  };
  for (const [kind, values] of [["columns", mean(1)], ["rows", mean(0)], ["samples", energy]]) {
    const sizes = values.filter((each) => each > 0).map(Math.sqrt).sort();
    const low = sizes.filter((each) => each <= NEVER_MEASURED * sizes.at(-1)).length;
    if (low < LEAST_EMPTY_SHARE * values.length || low === sizes.length) continue;
    const first = Math.max(Math.floor(low / 2), 1) - 1;
    const gaps = sizes.slice(1).map((each, i) => each / sizes[i]).slice(first);
    const place = indexOfLargest(gaps) + first + 1;
    if (sizes[place] / sizes[place - 1] >= GAP) {
      const share = (sizes[place - 1] / sizes.at(-1)).toExponential(0);
      return {
        message:
          `${place} of ${values.length} ${kind} are not zero but at most ${share} of the largest: they look like ` +
          "samples that were never measured; set them to zero, or give a file with the mask",
        fatal: true,
      };
    }
  }
  return null;
}

function clipped(kspace) {
  const limit = kspace.data.reduce((most, part) => Math.max(most, Math.abs(part)), 0);
  const n = kspace.data.filter((part) => Math.abs(part) >= limit * (1 - 1e-5)).length;
  if (n < CLIPPED_SAMPLES) return null;
  return {
    message:
      `${n} samples stand at the largest value, ${limit.toPrecision(3)}: the receiver was overdriven; the centre of ` +
      "k-space is wrong, acquire with less gain",
    fatal: false,
  };
}

function spikes({ energy, sampled, noise, rows, columns }) {
  const sizes = energy.map((each, i) => (sampled[i] ? Math.sqrt(each) : 0));
  const least = Math.max(Math.sqrt(noise) * 5, 0.02 * sizes.reduce((most, each) => Math.max(most, each), 0));
  const places = [];
  sizes.forEach((size, i) => {
    const row = Math.floor(i / columns), column = i % columns;
    const isOutside = Math.abs(row - centre(rows)) > rows / 8 || Math.abs(column - centre(columns)) > columns / 8;
    if (!isOutside || size <= least) return;
    let most = 0, neighbours = 0;
    for (let y = Math.max(row - 2, 0); y <= Math.min(row + 2, rows - 1); y++) {
      for (let x = Math.max(column - 2, 0); x <= Math.min(column + 2, columns - 1); x++) {
        const beside = sizes[y * columns + x];
        if (y * columns + x === i || beside === 0) continue;
        neighbours++;
        most = Math.max(most, beside);
      }
    }
    if (neighbours >= 3 && size > SPIKE_RATIO * most) places.push([row, column]);
  });
  if (!places.length) return null;
  const [row, column] = places[0];
  return {
    message:
      `${places.length} samples stand far above their neighbours, one at row ${row}, column ${column}: spikes of ` +
      "the receiver draw stripes over the image; leave those lines out",
    fatal: false,
  };
}
