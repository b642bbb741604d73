// Centred orthonormal Fourier transforms of any length. The centre is n // 2 for even and odd n alike.

import { centre, copy, size } from "./arrays.js";

const plans = new Map();

function factors(n) {
  const found = [];
  for (const radix of [4, 2, 3, 5]) for (; n % radix === 0; n /= radix) found.push(radix);
  for (let radix = 7; n > 1; radix += 2) for (; n % radix === 0; n /= radix) found.push(radix);
  return found;
}

function planOf(n) {
  if (!plans.has(n)) {
    const waves = new Float64Array(2 * n);
    for (let i = 0; i < n; i++) {
      waves[2 * i] = Math.cos((2 * Math.PI * i) / n);
      waves[2 * i + 1] = -Math.sin((2 * Math.PI * i) / n);
    }
    plans.set(n, { radices: factors(n), waves, work: [new Float64Array(2 * n), new Float64Array(2 * n)] });
  }
  return plans.get(n);
}

// Write re + i im, times a wave.
function turned(y, to, re, im, waves, place, sign) {
  const wr = waves[place], wi = sign * waves[place + 1];
  y[to] = re * wr - im * wi;
  y[to + 1] = re * wi + im * wr;
}

// One pass of Stockham's transform: decimation in frequency, sorted on the way.
function pass(x, y, radix, n, stride, waves, total, sign) {
  const m = n / radix;
  if (radix === 2 || radix === 4) {
    for (let q = 0; q < m; q++) {
      for (let j = 0; j < stride; j++) {
        const from = 2 * (j + stride * q);
        const step = 2 * stride * m;
        const to = 2 * (j + stride * radix * q);
        const ar = x[from], ai = x[from + 1], br = x[from + step], bi = x[from + step + 1];
        if (radix === 2) {
          const wr = waves[2 * q * stride], wi = sign * waves[2 * q * stride + 1];
          const dr = ar - br, di = ai - bi;
          y[to] = ar + br;
          y[to + 1] = ai + bi;
          y[to + 2 * stride] = dr * wr - di * wi;
          y[to + 2 * stride + 1] = dr * wi + di * wr;
          continue;
        }
        const cr = x[from + 2 * step], ci = x[from + 2 * step + 1];
        const dr = x[from + 3 * step], di = x[from + 3 * step + 1];
        const pr = ar + cr, pi = ai + ci, mr = ar - cr, mi = ai - ci;
        const sr = br + dr, si = bi + di;
        const tr = sign * (bi - di), ti = -sign * (br - dr); // -i (b - d), forwards
        y[to] = pr + sr;
        y[to + 1] = pi + si;
        turned(y, to + 2 * stride, mr + tr, mi + ti, waves, 2 * q * stride, sign);
        turned(y, to + 4 * stride, pr - sr, pi - si, waves, 4 * q * stride, sign);
        turned(y, to + 6 * stride, mr - tr, mi - ti, waves, 6 * q * stride, sign);
      }
    }
    return;
  }
  for (let q = 0; q < m; q++) {
    for (let j = 0; j < stride; j++) {
      for (let r = 0; r < radix; r++) {
        let sumR = 0, sumI = 0;
        for (let k = 0; k < radix; k++) {
          const from = 2 * (j + stride * (q + m * k));
          const place = 2 * ((k * r * (total / radix) + q * r * stride) % total);
          const wr = waves[place], wi = sign * waves[place + 1];
          sumR += x[from] * wr - x[from + 1] * wi;
          sumI += x[from] * wi + x[from + 1] * wr;
        }
        const to = 2 * (j + stride * (radix * q + r));
        y[to] = sumR;
        y[to + 1] = sumI;
      }
    }
  }
}

/** Transform in place along an axis of (outer, n, inner): the inverse where sign is -1. */
function alongAxis(data, outer, n, inner, sign) {
  if (n === 1) return;
  const { radices, waves, work } = planOf(n);
  const half = centre(n);
  const scale = 1 / Math.sqrt(n);
  for (let o = 0; o < outer; o++) {
    for (let i = 0; i < inner; i++) {
      const first = 2 * (o * n * inner + i);
      let [x, y] = work;
      for (let k = 0; k < n; k++) {
        const from = first + 2 * ((k + half) % n) * inner;
        x[2 * k] = data[from];
        x[2 * k + 1] = data[from + 1];
      }
      let length = n, stride = 1;
      for (const radix of radices) {
        pass(x, y, radix, length, stride, waves, n, sign);
        length /= radix;
        stride *= radix;
        [x, y] = [y, x];
      }
      for (let k = 0; k < n; k++) {
        const to = first + 2 * ((k + half) % n) * inner;
        data[to] = x[2 * k] * scale;
        data[to + 1] = x[2 * k + 1] * scale;
      }
    }
  }
}

/** Transform in place along some of the last two axes: -2 the rows, -1 the columns. */
export function transform(array, axes, inverse = false) {
  const [rows, columns] = array.shape.slice(-2);
  const images = size(array.shape.slice(0, -2));
  const sign = inverse ? -1 : 1;
  if (axes.includes(-1)) alongAxis(array.data, images * rows, columns, 1, sign);
  if (axes.includes(-2)) alongAxis(array.data, images, rows, columns, sign);
  return array;
}

export const fft = (image, axes = [-2, -1]) => transform(copy(image), axes);
export const ifft = (kspace, axes = [-2, -1]) => transform(copy(kspace), axes, true);

/** Return the (n, m) middle columns of the centred, orthonormal inverse Fourier transform. */
export function fourierSum(n, m) {
  const matrix = { shape: [n, m], data: new Float64Array(2 * n * m) };
  for (let row = 0; row < n; row++) {
    for (let column = 0; column < m; column++) {
      const turns = ((row - centre(n)) * (column - centre(m))) / n;
      matrix.data[2 * (row * m + column)] = Math.cos(2 * Math.PI * turns) / Math.sqrt(n);
      matrix.data[2 * (row * m + column) + 1] = Math.sin(2 * Math.PI * turns) / Math.sqrt(n);
    }
  }
  return matrix;
}
