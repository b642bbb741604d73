// From the k-space of a slice to the inverse problem that is solved: the JavaScript of
// src/sbim_deploy/recon/prepare.py, of whose SliceProblem it returns the parts.

import { centred, magnitudes, percentile } from "./arrays.js";
import { ESPIRIT, ONES, estimateMaps } from "./coil_maps.js";
import { InputError } from "./errors.js";
import { fft, ifft } from "./fourier.js";
import { findFaults } from "./kspace_faults.js";
import { MIN_CALIB_LINES, compact, full, nonZero, sampled } from "./masks.js";
import { mixCoils } from "./matrices.js";
import { measureNoise } from "./noise_level.js";
import { divided, mvue, rootSumOfSquares } from "./sense.js";
import { shadedAsUnmixed, whiteningOfUnlikeCoils } from "./whitening.js";

const CONSPICUOUS_NOISE = 0.02, LEAST_FILTERED = 4, LEAST_MAGNITUDE = 1e-15;
const MIN_ESPIRIT_LINES = 8;

/** Return { index, kspace, maps, mask, mvue, scale, noise, imageShape, noiseSource, mapSource, faults }.
 *
 * kspace is (coil, rows, columns), readout along the rows; mask, null or a mask on its grid, says what of it was
 * measured; imageShape is [rows, columns] of the image, null for k-space's; calibration is k-space to estimate the
 * maps from, null for its own; noise is the standard deviation of each part where it is known. onStage(name, share)
 * hears of the work.
 */
export function prepareSlice(
  { kspace, index = 0, mask = null, imageShape = null, calibration = null, noise: known = null },
  onStage = () => {},
) {
  const [nCoils, rows, columns] = kspace.shape;
  imageShape ??= [rows, columns];
  checkMagnitude(kspace);
  const lines = measuredMask(kspace, mask);
  onStage("measuring the noise", 0);
  const given = kspace;
  kspace = sampled(kspace, lines);
  const measured = measureImageNoise(kspace, lines, imageShape[0]);
  const found = findFaults(given, mask && lines, measured.coilSds);
  const fatal = found.find((fault) => fault.fatal);
  if (fatal) throw new InputError(fatal.message);
  const faults = found.map((fault) => fault.message);
  let noise = known ?? measured.sd, noiseSource = known === null ? measured.source : "noise readouts";
  const whitening = known === null ? whiteningOfUnlikeCoils(measured) : null;
  if (whitening) {
    noise = whitening.level;
    noiseSource += ", coils whitened";
    faults.push(...whitening.faults);
    kspace = mixCoils(whitening.matrix, kspace);
    calibration &&= mixCoils(whitening.matrix, calibration);
  }
  const cropsReadout = isOversampled(kspace, lines, imageShape[0]);
  const grid = [cropsReadout ? imageShape[0] : rows, columns];
  const toEstimate = calibration ? [calibration, compact(nonZero(calibration))] : [kspace, lines];
  const estimate = estimateMaps(...toEstimate, noise, (share) => onStage("finding the coil maps", share));
  faults.push(...fewLines(estimate), ...folded(estimate));
  let maps = centred(estimate.maps, grid);
  if (whitening) maps = shadedAsUnmixed(maps, whitening);
  if (cropsReadout) kspace = cropReadout(kspace, imageShape[0]);
  let zeroFilled = mvue(kspace, maps);
  if (whitening) zeroFilled = divided(zeroFilled, rootSumOfSquares(maps));
  const scale = percentile(magnitudes(zeroFilled), 99);
  if (scale === 0) throw new InputError("the coil maps are zero where the image is: is this k-space of one object?");
  if (known === null && measured.guessed && measured.sd >= CONSPICUOUS_NOISE * scale) {
    faults.push(
      "the noise cannot be told from the object, and its standard deviation is guessed to be " +
        `${measured.sd.toPrecision(3)}, ${((100 * measured.sd) / scale).toFixed(1)}% of the image's brightest parts`,
    );
  }
  return {
    index,
    kspace,
    maps,
    mask: lines,
    mvue: zeroFilled,
    scale,
    noise,
    imageShape,
    noiseSource,
    mapSource: estimate.method,
    nLines: estimate.nLines,
    faults,
  };
}

// The receiver's filter lets less noise through at the ends of an oversampled readout's field of view.
function measureImageNoise(kspace, mask, nRows) {
  const measured = measureNoise(kspace, mask);
  if (!isOversampled(kspace, mask, nRows)) return measured;
  const within = measureNoise(cropReadout(kspace, nRows), mask);
  return within.guessed || within.sd > LEAST_FILTERED * measured.sd ? measured : within;
}

const isOversampled = (kspace, mask, nRows) => mask.rows === 1 && nRows < kspace.shape[1];

const cropReadout = (kspace, nRows) => fft(centred(ifft(kspace, [-2]), [nRows, kspace.shape[2]]), [-2]);

function checkMagnitude(kspace) {
  let most = 0, bad = 0;
  for (const part of kspace.data) {
    if (!Number.isFinite(part)) bad++;
    most = Math.max(most, Math.abs(part));
  }
  if (bad) {
    throw new InputError(`k-space has ${bad} parts that are not finite, expected finite ones: repair or leave out the slice`);
  }
  if (most && !(most >= LEAST_MAGNITUDE && most <= 1 / LEAST_MAGNITUDE)) {
    throw new InputError(
      `the largest value of k-space is ${most.toPrecision(3)}, expected ${LEAST_MAGNITUDE} to ${1 / LEAST_MAGNITUDE}: multiply it`,
    );
  }
}

function measuredMask(kspace, mask) {
  const [, rows, columns] = kspace.shape;
  const nonzero = nonZero(kspace);
  let measured = full(compact(nonzero), rows, columns);
  if (mask) {
    const whole = full(compact(full(mask, rows, columns)), rows, columns);
    measured = { ...measured, data: measured.data.map((each, i) => each & whole.data[i]) };
  }
  if (!measured.data.includes(1)) {
    throw new InputError("k-space is zero everywhere it was sampled, expected a signal: choose another slice");
  }
  return compact(measured);
}

function fewLines({ method, nLines }) {
  if (method === ONES) {
    return [
      `a single coil with ${nLines} calibration lines: its map is taken to be 1 everywhere, and the image has the ` +
        "coil's shading",
    ];
  }
  if (nLines >= (method === ESPIRIT ? MIN_ESPIRIT_LINES : MIN_CALIB_LINES)) return [];
  return [`${nLines} calibration lines are few for maps by ${method}: the image is as wrong as they are`];
}

function folded({ folds }) {
  if (!folds) return [];
  return [
    "the object is larger than the field of view and folds over, which one set of coil maps cannot explain: " +
      "sbim-deploy recon --map-sets 2 can",
  ];
}
