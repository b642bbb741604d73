// The SENSE operator A = P F S, conjugate gradients, and one image from the coils'.
// Pruessmann et al. 1999 (doi:10.1002/(SICI)1522-2594(199911)42:5<952::AID-MRM16>3.0.CO;2-S).

import { addTo, complex, copy, energy, innerReal } from "./arrays.js";
import { ifft, transform } from "./fourier.js";
import { full } from "./masks.js";

/** Return sum_c conj(maps_c) coilImages_c. */
export function combine(maps, coilImages) {
  const [, rows, columns] = maps.shape;
  const image = complex(rows, columns);
  const s = maps.data, x = coilImages.data, out = image.data;
  for (let first = 0; first < s.length; first += out.length) {
    for (let to = 0, i = first; to < out.length; to += 2, i += 2) {
      out[to] += s[i] * x[i] + s[i + 1] * x[i + 1];
      out[to + 1] += s[i] * x[i + 1] - s[i + 1] * x[i];
    }
  }
  return image;
}

/** Return maps_c image for every coil. */
export function split(maps, image) {
  const result = complex(...maps.shape);
  const s = maps.data, x = image.data, out = result.data;
  for (let first = 0; first < s.length; first += x.length) {
    for (let from = 0, i = first; from < x.length; from += 2, i += 2) {
      out[i] = s[i] * x[from] - s[i + 1] * x[from + 1];
      out[i + 1] = s[i] * x[from + 1] + s[i + 1] * x[from];
    }
  }
  return result;
}

function keep(kspace, whole) {
  for (let i = 0; i < kspace.data.length; i += 2) {
    if (!whole[(i / 2) % whole.length]) kspace.data[i] = kspace.data[i + 1] = 0;
  }
  return kspace;
}

/** Return A, A^H and A^H A for maps (coil, rows, columns). */
export function sense(maps, mask) {
  const [, rows, columns] = maps.shape;
  const whole = full(mask, rows, columns).data;
  const axes = [...(mask.rows > 1 ? [-2] : []), ...(mask.columns > 1 ? [-1] : [])];
  return {
    forward: (image) => keep(transform(split(maps, image), [-2, -1]), whole),
    adjoint: (kspace) => combine(maps, ifft(keep(copy(kspace), whole))),
    // Along an axis that is sampled in full the transform and its inverse cancel.
    normal: (image) => combine(maps, transform(keep(transform(split(maps, image), axes), whole), axes, true)),
  };
}

/** Return x with normal(x) = residual, from x = 0; the residual is overwritten (Hestenes and Stiefel 1952). */
export function conjugateGradients(normal, residual, goal, maxIterations) {
  const solution = { shape: residual.shape, data: new Float64Array(residual.data.length) };
  const direction = copy(residual);
  let left = energy(residual);
  for (let i = 0; i < maxIterations && left > goal; i++) {
    const applied = normal(direction);
    const length = left / innerReal(direction, applied);
    addTo(solution, direction, length);
    addTo(residual, applied, -length);
    const before = left;
    left = energy(residual);
    for (let k = 0; k < direction.data.length; k++) {
      direction.data[k] = residual.data[k] + (left / before) * direction.data[k];
    }
  }
  return solution;
}

/** Return sqrt(sum_c |x_c|^2), (rows, columns). */
export function rootSumOfSquares(array) {
  const [nCoils, rows, columns] = array.shape;
  const root = new Float64Array(rows * columns);
  for (let i = 0; i < nCoils * rows * columns; i++) {
    root[i % root.length] += array.data[2 * i] ** 2 + array.data[2 * i + 1] ** 2;
  }
  return root.map(Math.sqrt);
}

/** Return maps divided by a real image, zero where that is. */
export function divided(array, by) {
  const result = copy(array);
  for (let i = 0; i < array.data.length; i++) {
    const divisor = by[(i >> 1) % by.length];
    result.data[i] = divisor > 0 ? array.data[i] / divisor : 0;
  }
  return result;
}

export const normalised = (maps) => divided(maps, rootSumOfSquares(maps));

/** Return the minimum-variance unbiased estimate (Jalal et al. 2021, arXiv:2108.01368, section 3). */
export function mvue(kspace, maps) {
  return divided(combine(maps, ifft(kspace)), rootSumOfSquares(maps));
}

