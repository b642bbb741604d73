// The noise of a scan, from the scan itself: the JavaScript of src/sbim_deploy/mri/noise_level.py.

import { centre, complex, median, percentile } from "./arrays.js";
import { compact, full } from "./masks.js";
import { adjoint, diagonal, eigh, gram, mixCoils, part, product, scaledBy, trace } from "./matrices.js";
import { EPS, MAX_WINDOWED_EDGE, OBJECT_RATIO, STEEP_RATIO, noiseInWindows } from "./noise_windows.js";

const MAX_SPREAD = 0.2, OUTER_SHARE = 0.05, MAX_OUTER_RATIO = 1.05;
const RING = [0.5, 0.75], MAX_RING_RATIO = 10, MAX_BLOCK_RATIO = 30;

const range = (n) => Array.from({ length: n }, (_, i) => i);
const mean = (numbers) => numbers.reduce((total, each) => total + each, 0) / numbers.length;

/** Return { covariance, sd, coilSds, source, nSamples, guessed } of the noise of k-space (coil, rows, columns). */
export function measureNoise(kspace, mask) {
  const [nCoils, rows, columns] = kspace.shape;
  const pixels = rows * columns;
  const products = gram({ shape: [nCoils, pixels], data: kspace.data });
  products.data.forEach((each, i) => (products.data[i] = each / pixels));
  const power = diagonal(products);
  const alive = range(nCoils).filter((coil) => power[coil] > EPS ** 2 * Math.max(...power));
  const gains = alive.map((coil) => Math.sqrt(power[coil]));
  const inverse = gains.map((gain) => 1 / gain);
  const basis = independentBasis(scaledBy(part(products, alive, alive), inverse, inverse));
  const living = complex(alive.length, rows, columns);
  alive.forEach((coil, i) => {
    living.data.set(kspace.data.subarray(2 * coil * pixels, 2 * (coil + 1) * pixels), 2 * i * pixels);
  });
  const reduced = mixCoils(adjoint(scaledBy(basis, inverse, null)), living);
  const { fit, guessed } = chooseFit(reduced, resolved(reduced, mask));
  const covariance = shrunk(product(product(basis, fit.covariance), adjoint(basis)), fit.nSamples);
  const source = trace(covariance) > EPS * alive.length ? fit.source : "rounding";
  for (let i = 0; i < alive.length; i++) covariance.data[2 * i * (alive.length + 1)] += EPS;
  const within = gram(basis);
  const whole = scaledBy(product(product(within, covariance), within), gains, gains);
  const result = complex(nCoils, nCoils);
  alive.forEach((coil, i) =>
    alive.forEach((other, j) => {
      for (const k of [0, 1]) result.data[2 * (coil * nCoils + other) + k] = whole.data[2 * (i * alive.length + j) + k];
    }),
  );
  const coilSds = diagonal(result).map((variance) => Math.sqrt(Math.max(variance, 0) / 2));
  const counted = coilSds.filter((each) => each > 0).length || 1;
  const sd = Math.sqrt(coilSds.reduce((total, each) => total + each ** 2, 0) / counted);
  return { covariance: result, coilSds, sd, source, nSamples: fit.nSamples, guessed };
}

// Schaefer and Strimmer 2005, equation 10; Opgen-Rhein and Strimmer 2007, equation 8, for complex samples.
function shrunk(covariance, nSamples) {
  const n = covariance.shape[0];
  const variances = diagonal(covariance);
  if (n === 1 || variances.some((each) => each === 0)) return covariance;
  const average = mean([...variances]);
  const squares = variances.reduce((total, each) => total + each ** 2, 0);
  const spread = variances.reduce((total, each) => total + (each - average) ** 2, 0);
  let share = spread ? Math.min(squares / nSamples / spread, 1) : 1;
  const kept = variances.map((each) => Math.sqrt(each + share * (average - each)));
  const sds = variances.map((each) => 1 / Math.sqrt(each));
  const correlation = scaledBy(covariance, sds, sds);
  for (let i = 0; i < n; i++) correlation.data.fill(0, 2 * i * (n + 1), 2 * i * (n + 1) + 2);
  const off = correlation.data.reduce((total, each) => total + each ** 2, 0);
  share = off ? Math.min((n * (n - 1)) / nSamples / off, 1) : 1;
  correlation.data.forEach((each, i) => (correlation.data[i] = each * (1 - share)));
  for (let i = 0; i < n; i++) correlation.data[2 * i * (n + 1)] = 1;
  return scaledBy(correlation, kept, kept);
}

function independentBasis(correlation) {
  const n = correlation.shape[0];
  const { values, vectors } = eigh(correlation);
  const kept = range(n).filter((i) => values[i] > n * EPS ** 2);
  return part(vectors, range(n), kept);
}

// The samples that are more than the rounding of the largest one: no zero-padding.
function resolved(kspace, mask) {
  const [nCoils, rows, columns] = kspace.shape;
  const energies = energyOf(kspace);
  const least = EPS ** 2 * energies.reduce((most, each) => Math.max(most, each), 0);
  const whole = full(mask, rows, columns);
  whole.data.forEach((each, i) => (whole.data[i] = each && energies[i] > least ? 1 : 0));
  return compact(whole);
}

function energyOf(kspace) {
  const [nCoils, rows, columns] = kspace.shape;
  const energies = new Float64Array(rows * columns);
  for (let i = 0; i < nCoils * rows * columns; i++) {
    energies[i % energies.length] += kspace.data[2 * i] ** 2 + kspace.data[2 * i + 1] ** 2;
  }
  return energies;
}

function chooseFit(kspace, mask) {
  const outer = outerFit(kspace, mask);
  const fit = noiseInWindows(kspace, mask, outer.covariance);
  const flat = Math.max(...outer.profile) - Math.min(...outer.profile) < MAX_SPREAD * mean(outer.profile);
  if (!fit || fit.profile[2] < OBJECT_RATIO * fit.profile[0]) return { fit: outer, guessed: !flat };
  const ratio = trace(outer.covariance) / trace(fit.covariance);
  if (!fit.whole) return { fit: fitOfBlock(kspace, mask, fit, outer, ratio), guessed: !flat };
  const unwindowed = fit.profile.at(-1) >= MAX_WINDOWED_EDGE * fit.profile[1] && ratio < MAX_OUTER_RATIO;
  if (flat && (unwindowed || fit.profile[2] < STEEP_RATIO * fit.profile[0])) return { fit: outer, guessed: false };
  return { fit, guessed: false };
}

function fitOfBlock(kspace, mask, fit, outer, ratio) {
  if (MAX_WINDOWED_EDGE < ratio && ratio < 1) return outer;
  const { places, distance } = distances(kspace, mask);
  const ring = places.filter((_, i) => distance[i] >= RING[0] && distance[i] < RING[1]);
  if (!ring.length) return fit;
  const energies = energyOf(kspace);
  const between = mean(ring.map((place) => energies[place]));
  if (between < MAX_RING_RATIO * trace(outer.covariance)) return outer;
  if (trace(fit.covariance) < MAX_BLOCK_RATIO * between) return fit;
  return { ...fit, covariance: covarianceOf(kspace, ring), nSamples: ring.length };
}

// The sampled places, their offsets along both axes, and how far from the centre they are.
function distances(kspace, mask) {
  const [, rows, columns] = kspace.shape;
  const whole = full(mask, rows, columns).data;
  const places = range(rows * columns).filter((i) => whole[i]);
  const down = places.map((i) => Math.abs(Math.floor(i / columns) - centre(rows)));
  const right = places.map((i) => Math.abs((i % columns) - centre(columns)));
  const offsets = [down, right].map((each) => {
    const reach = Math.max(each.reduce((most, one) => Math.max(most, one), 0), 1);
    return each.map((one) => one / reach);
  });
  return { places, offsets, distance: places.map((_, i) => Math.hypot(offsets[0][i], offsets[1][i])) };
}

function covarianceOf(kspace, places) {
  const [nCoils, rows, columns] = kspace.shape;
  const samples = complex(nCoils, places.length);
  for (let coil = 0; coil < nCoils; coil++) {
    places.forEach((place, i) => {
      const from = 2 * (coil * rows * columns + place);
      samples.data[2 * (coil * places.length + i)] = kspace.data[from];
      samples.data[2 * (coil * places.length + i) + 1] = kspace.data[from + 1];
    });
  }
  const covariance = gram(samples);
  covariance.data.forEach((each, i) => (covariance.data[i] = each / places.length));
  return covariance;
}

// The covariance of the samples farthest from the centre, and their variance in four parts.
function outerFit(kspace, mask) {
  const { places, offsets, distance } = distances(kspace, mask);
  const least = Math.min(1, percentile(distance, 100 * (1 - OUTER_SHARE)));
  const outer = range(places.length).filter((i) => distance[i] >= least);
  const energies = energyOf(kspace);
  const profile = [];
  for (const offset of offsets) {
    const middle = median(outer.map((i) => offset[i]));
    for (const isFar of [true, false]) {
      const half = outer.filter((i) => offset[i] > middle === isFar).map((i) => energies[places[i]]);
      profile.push(half.length || !isFar ? mean(half) : 0);
    }
  }
  const chosen = outer.map((i) => places[i]);
  return {
    covariance: covarianceOf(kspace, chosen),
    nSamples: chosen.length,
    profile,
    whole: true,
    source: "outermost samples",
  };
}
