// Coil maps by regularised nonlinear inversion (Uecker et al. 2008, doi 10.1002/mrm.21691): the JavaScript of
// src/sbim_deploy/mri/nonlinear_inversion.py.

import { addTo, centred, complex, energy, largest, norm, scaled, transposed } from "./arrays.js";
import { InputError } from "./errors.js";
import { fourierSum, ifft, transform } from "./fourier.js";
import { centredMask, full, sampled, transposedMask } from "./masks.js";
import { adjoint, eigh, gram, mixCoils, product } from "./matrices.js";
import { combine, conjugateGradients, normalised, split } from "./sense.js";

const SOBOLEV_SCALE = 220 / 128 ** 2, SOBOLEV_POWER = 16, N_COEFFICIENTS = 17;
const COARSE_GRID = 64, MAX_VIRTUAL_COILS = 16, N_STEPS = 12;
const CG_TOLERANCE = 0.2, MAX_CG_ITERATIONS = 100, DATA_RMS = 100 / 128;

/** Return maps (coil, rows, columns) of unit root sum of squares. */
export function nonlinearInversionMaps(kspace, mask, onStep = () => {}) {
  if (mask.rows > 1 && mask.columns === 1) {
    return transposed(nonlinearInversionMaps(transposed(kspace), transposedMask(mask), onStep));
  }
  const [nCoils, rows, columns] = kspace.shape;
  const coarse = [Math.min(rows, COARSE_GRID), Math.min(columns, COARSE_GRID)];
  const centreMask = centredMask(mask, coarse);
  const centre = sampled(centred(kspace, coarse), centreMask);
  const unit = largest(centre);
  if (unit === 0) throw new InputError(`k-space is zero in its ${coarse.join(" x ")} centre, expected a signal`);
  const inUnits = scaled(centre, 1 / unit);
  const matrix = compression(inUnits, Math.min(nCoils, MAX_VIRTUAL_COILS));
  const coefficients = mixCoils(adjoint(matrix), invert(mixCoils(matrix, inUnits), centreMask, onStep));
  const coilSize = coefficients.data.length / nCoils, samples = inUnits.data.length / nCoils;
  for (let coil = 0; coil < nCoils; coil++) {
    const measured = inUnits.data.subarray(coil * samples, (coil + 1) * samples).some((each) => each !== 0);
    if (!measured) coefficients.data.fill(0, coil * coilSize, (coil + 1) * coilSize);
  }
  const [, m, n] = coefficients.shape;
  return normalised(series(coefficients, fourierSum(rows, m), transposed(fourierSum(columns, n))));
}

// The strongest left singular vectors, as rows (Buehrer et al. 2007, doi:10.1002/mrm.21237).
function compression(calibration, nVirtual) {
  const nCoils = calibration.shape[0];
  const { vectors } = eigh(gram({ shape: [nCoils, calibration.data.length / 2 / nCoils], data: calibration.data }));
  const chosen = complex(nCoils, nVirtual);
  for (let coil = 0; coil < nCoils; coil++) {
    for (let i = 0; i < nVirtual; i++) {
      const from = 2 * (coil * nCoils + nCoils - 1 - i), to = 2 * (coil * nVirtual + i);
      chosen.data[to] = vectors.data[from];
      chosen.data[to + 1] = vectors.data[from + 1];
    }
  }
  return adjoint(chosen);
}

// left each right, for each coil.
function series(coefficients, left, right) {
  const [nCoils, m, n] = coefficients.shape;
  const result = complex(nCoils, left.shape[0], right.shape[1]);
  const step = result.data.length / nCoils;
  for (let coil = 0; coil < nCoils; coil++) {
    const each = { shape: [m, n], data: coefficients.data.subarray(2 * coil * m * n, 2 * (coil + 1) * m * n) };
    result.data.set(product(product(left, each), right).data, coil * step);
  }
  return result;
}

/** The model F(image, maps) = P F (image * maps) and its derivative at one point.
 *
 * A point is one vector: the image (rows, columns), then the maps' weighted Fourier coefficients (coil, m, n).
 */
function jointModel(mask, nCoils, shape) {
  const [rows, columns] = shape;
  const axes = mask.rows === 1 ? [-1] : [-2, -1];
  const [m, n] = shape.map((each) => Math.min(each, N_COEFFICIENTS));
  const left = fourierSum(rows, m), right = transposed(fourierSum(columns, n));
  const leftAdjoint = adjoint(left), rightAdjoint = adjoint(right);
  const weights = Float64Array.from({ length: m * n }, (_, i) => {
    const y = Math.floor(i / n) - Math.floor(m / 2), x = (i % n) - Math.floor(n / 2);
    return (1 + SOBOLEV_SCALE * (y * y + x * x)) ** -SOBOLEV_POWER;
  });
  const whole = full(mask, rows, columns).data;
  const nImage = 2 * rows * columns;
  let image, maps;

  const weighted = (data) => data.map((each, i) => each * weights[(i >> 1) % weights.length]);
  const partsOf = (point) => ({
    image: { shape, data: point.data.subarray(0, nImage) },
    coefficients: { shape: [nCoils, m, n], data: point.data.subarray(nImage) },
  });
  const sumOf = ({ data }) => series({ shape: [nCoils, m, n], data: weighted(data) }, left, right);
  const sample = (coilImages) => {
    transform(coilImages, axes);
    for (let i = 0; i < coilImages.data.length; i += 2) {
      if (!whole[(i / 2) % whole.length]) coilImages.data[i] = coilImages.data[i + 1] = 0;
    }
    return coilImages;
  };
  return {
    axes,
    size: nImage / 2 + nCoils * m * n,
    partsOf,
    mapsCoefficients: (point) => ({ shape: [nCoils, m, n], data: weighted(partsOf(point).coefficients.data) }),
    measure(point) {
      const parts = partsOf(point);
      image = { shape, data: parts.image.data.slice() };
      maps = sumOf(parts.coefficients);
      return sample(split(maps, image));
    },
    derivative(change) {
      const parts = partsOf(change);
      const coilImages = split(sumOf(parts.coefficients), image);
      return sample(addTo(coilImages, split(maps, parts.image)));
    },
    adjoint(kspace) {
      const coilImages = transform(kspace, axes, true);
      const result = complex(nImage / 2 + nCoils * m * n);
      result.data.set(combine(maps, coilImages).data);
      for (let i = 0; i < coilImages.data.length; i += 2) {
        const at = i % nImage, re = coilImages.data[i], im = coilImages.data[i + 1];
        coilImages.data[i] = image.data[at] * re + image.data[at + 1] * im;
        coilImages.data[i + 1] = image.data[at] * im - image.data[at + 1] * re;
      }
      result.data.set(weighted(series(coilImages, leftAdjoint, rightAdjoint).data), nImage);
      return result;
    },
  };
}

// The iteratively regularised Gauss-Newton method: equation 5 of the paper, drawn towards zero.
function invert(kspace, mask, onStep) {
  const [nCoils, rows, columns] = kspace.shape;
  const model = jointModel(mask, nCoils, [rows, columns]);
  const hybrid = model.axes.length === 1 ? ifft(kspace, [-2]) : kspace;
  const data = scaled(hybrid, (DATA_RMS * Math.sqrt(rows * columns)) / norm(hybrid));
  const point = complex(model.size);
  for (let i = 0; i < rows * columns; i++) point.data[2 * i] = 1;
  for (let step = 0; step < N_STEPS; step++) {
    onStep(step / N_STEPS);
    const regularisation = 0.5 ** step;
    const left = model.measure(point);
    for (let i = 0; i < left.data.length; i++) left.data[i] = data.data[i] - left.data[i];
    const gradient = addTo(model.adjoint(left), point, -regularisation);
    const normal = (direction) => addTo(model.adjoint(model.derivative(direction)), direction, regularisation);
    const goal = CG_TOLERANCE ** 2 * energy(gradient);
    addTo(point, conjugateGradients(normal, gradient, goal, MAX_CG_ITERATIONS));
  }
  return model.mapsCoefficients(point);
}
