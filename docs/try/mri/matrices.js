// Small complex matrices, { shape: [rows, columns], data }: products, eigenvectors, Cholesky factors.

import { complex } from "./arrays.js";

/** Return a b. */
export function product(a, b) {
  const [rows, inner] = a.shape;
  const columns = b.shape[1];
  const result = complex(rows, columns);
  const left = a.data, right = b.data, out = result.data;
  for (let i = 0; i < rows; i++) {
    const first = 2 * i * columns, last = first + 2 * columns;
    for (let k = 0; k < inner; k++) {
      const ar = left[2 * (i * inner + k)], ai = left[2 * (i * inner + k) + 1];
      if (ar === 0 && ai === 0) continue;
      for (let from = 2 * k * columns, to = first; to < last; from += 2, to += 2) {
        const br = right[from], bi = right[from + 1];
        out[to] += ar * br - ai * bi;
        out[to + 1] += ar * bi + ai * br;
      }
    }
  }
  return result;
}

/** Return a^H. */
export function adjoint(a) {
  const [rows, columns] = a.shape;
  const result = complex(columns, rows);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      result.data[2 * (j * rows + i)] = a.data[2 * (i * columns + j)];
      result.data[2 * (j * rows + i) + 1] = -a.data[2 * (i * columns + j) + 1];
    }
  }
  return result;
}

/** Return a a^H, Hermitian to the bit. */
export function gram(a) {
  const [rows, columns] = a.shape;
  const result = complex(rows, rows);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j <= i; j++) {
      let re = 0, im = 0;
      let p = 2 * i * columns, q = 2 * j * columns;
      for (let k = 0; k < columns; k++, p += 2, q += 2) {
        const ar = a.data[p], ai = a.data[p + 1], br = a.data[q], bi = a.data[q + 1];
        re += ar * br + ai * bi;
        im += ai * br - ar * bi;
      }
      result.data[2 * (i * rows + j)] = re;
      result.data[2 * (i * rows + j) + 1] = i === j ? 0 : im;
      result.data[2 * (j * rows + i)] = re;
      result.data[2 * (j * rows + i) + 1] = i === j ? 0 : -im;
    }
  }
  return result;
}

export function identity(n, value = 1) {
  const result = complex(n, n);
  for (let i = 0; i < n; i++) result.data[2 * i * (n + 1)] = value;
  return result;
}

/** The real parts of the diagonal. */
export function diagonal(a) {
  const n = a.shape[0];
  return Float64Array.from({ length: n }, (_, i) => a.data[2 * i * (n + 1)]);
}

export const trace = (a) => diagonal(a).reduce((sum, each) => sum + each, 0);

/** Return some of the rows and columns. */
export function part(a, rows, columns) {
  const result = complex(rows.length, columns.length);
  rows.forEach((row, i) =>
    columns.forEach((column, j) => {
      for (const k of [0, 1]) {
        result.data[2 * (i * columns.length + j) + k] = a.data[2 * (row * a.shape[1] + column) + k];
      }
    }),
  );
  return result;
}

/** Return diag(left) a diag(right), for real numbers. */
export function scaledBy(a, left, right) {
  const [rows, columns] = a.shape;
  const result = complex(rows, columns);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      const factor = (left ? left[i] : 1) * (right ? right[j] : 1);
      for (const k of [0, 1]) {
        result.data[2 * (i * columns + j) + k] = a.data[2 * (i * columns + j) + k] * factor;
      }
    }
  }
  return result;
}

/** Return the eigenvalues, smallest first, and the eigenvectors as columns, of a Hermitian matrix.
 *
 * Householder's reduction to a real tridiagonal matrix, then implicit QL (Golub and Van Loan, Matrix
 * Computations, sections 8.3.1 and 8.3.3).
 */
export function eigh(matrix) {
  const n = matrix.shape[0];
  const a = matrix.data.slice();
  const reflections = [];
  const off = complex(n, 1).data;
  const pr = new Float64Array(n), pi = new Float64Array(n);
  for (let k = 0; k < n - 1; k++) {
    let below = 0;
    for (let i = k + 1; i < n; i++) below += a[2 * (i * n + k)] ** 2 + a[2 * (i * n + k) + 1] ** 2;
    const length = Math.sqrt(below);
    const first = 2 * ((k + 1) * n + k);
    if (k === n - 2 || length === 0) {
      off[2 * k] = a[first];
      off[2 * k + 1] = a[first + 1];
      continue;
    }
    const size = Math.hypot(a[first], a[first + 1]);
    const ur = size ? a[first] / size : 1, ui = size ? a[first + 1] / size : 0;
    off[2 * k] = -ur * length;
    off[2 * k + 1] = -ui * length;
    const v = new Float64Array(2 * n);
    for (let i = k + 1; i < n; i++) {
      v[2 * i] = a[2 * (i * n + k)];
      v[2 * i + 1] = a[2 * (i * n + k) + 1];
    }
    v[2 * k + 2] += ur * length;
    v[2 * k + 3] += ui * length;
    const scale = 1 / Math.sqrt(2 * length * (length + size));
    for (let i = 2 * k + 2; i < 2 * n; i++) v[i] *= scale;
    // p = A v, q = p - (v^H p) v, A <- A - 2 v q^H - 2 q v^H
    let vp = 0;
    for (let i = k + 1; i < n; i++) {
      let re = 0, im = 0, from = 2 * (i * n + k + 1);
      for (let j = k + 1; j < n; j++, from += 2) {
        re += a[from] * v[2 * j] - a[from + 1] * v[2 * j + 1];
        im += a[from] * v[2 * j + 1] + a[from + 1] * v[2 * j];
      }
      pr[i] = re;
      pi[i] = im;
      vp += v[2 * i] * re + v[2 * i + 1] * im;
    }
    for (let i = k + 1; i < n; i++) {
      pr[i] = 2 * (pr[i] - vp * v[2 * i]);
      pi[i] = 2 * (pi[i] - vp * v[2 * i + 1]);
    }
    for (let i = k + 1; i < n; i++) {
      const vr = v[2 * i], vi = v[2 * i + 1], qr = pr[i], qi = pi[i];
      let to = 2 * (i * n + k + 1);
      for (let j = k + 1; j < n; j++, to += 2) {
        const wr = v[2 * j], wi = v[2 * j + 1];
        a[to] -= vr * pr[j] + vi * pi[j] + qr * wr + qi * wi;
        a[to + 1] -= vi * pr[j] - vr * pi[j] + qi * wr - qr * wi;
      }
    }
    reflections.push([k, v]);
  }
  // Phases make the subdiagonal real.
  const d = Float64Array.from({ length: n }, (_, i) => a[2 * i * (n + 1)]);
  const e = new Float64Array(n);
  const phases = new Float64Array(2 * n);
  phases[0] = 1;
  for (let k = 0; k < n - 1; k++) {
    const size = Math.hypot(off[2 * k], off[2 * k + 1]);
    e[k] = size;
    const er = size ? off[2 * k] / size : 1, ei = size ? off[2 * k + 1] / size : 0;
    phases[2 * k + 2] = phases[2 * k] * er - phases[2 * k + 1] * ei;
    phases[2 * k + 3] = phases[2 * k] * ei + phases[2 * k + 1] * er;
  }
  const z = tridiagonal(d, e);
  const order = Array.from(d.keys()).sort((i, j) => d[i] - d[j]);
  const vectors = complex(n, n); // one in each row, until the end
  order.forEach((from, to) => {
    const row = vectors.data.subarray(2 * to * n, 2 * (to + 1) * n);
    for (let i = 0; i < n; i++) {
      row[2 * i] = z[from * n + i] * phases[2 * i];
      row[2 * i + 1] = z[from * n + i] * phases[2 * i + 1];
    }
    for (let r = reflections.length - 1; r >= 0; r--) {
      const [k, v] = reflections[r];
      let re = 0, im = 0;
      for (let i = 2 * k + 2; i < 2 * n; i += 2) {
        re += v[i] * row[i] + v[i + 1] * row[i + 1];
        im += v[i] * row[i + 1] - v[i + 1] * row[i];
      }
      re *= 2;
      im *= 2;
      for (let i = 2 * k + 2; i < 2 * n; i += 2) {
        row[i] -= re * v[i] - im * v[i + 1];
        row[i + 1] -= re * v[i + 1] + im * v[i];
      }
    }
  });
  const columns = complex(n, n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      columns.data[2 * (i * n + j)] = vectors.data[2 * (j * n + i)];
      columns.data[2 * (i * n + j) + 1] = vectors.data[2 * (j * n + i) + 1];
    }
  }
  return { values: Float64Array.from(order, (i) => d[i]), vectors: columns };
}

/** Overwrite the diagonal with the eigenvalues; return the eigenvectors, one in each row. */
function tridiagonal(d, e) {
  const n = d.length;
  const z = new Float64Array(n * n);
  for (let i = 0; i < n; i++) z[i * n + i] = 1;
  for (let l = 0; l < n; l++) {
    for (let iteration = 0; ; iteration++) {
      let m = l;
      for (; m < n - 1; m++) {
        if (Math.abs(e[m]) <= Number.EPSILON * (Math.abs(d[m]) + Math.abs(d[m + 1]))) break;
      }
      if (m === l) break;
      if (iteration === 60) throw new Error("eigenvalues: no convergence");
      let g = (d[l + 1] - d[l]) / (2 * e[l]);
      let r = Math.hypot(g, 1);
      g = d[m] - d[l] + e[l] / (g + (g >= 0 ? r : -r));
      let s = 1, c = 1, p = 0, i = m - 1;
      for (; i >= l; i--) {
        const f = s * e[i], b = c * e[i];
        r = Math.hypot(f, g);
        e[i + 1] = r;
        if (r === 0) {
          d[i + 1] -= p;
          e[m] = 0;
          break;
        }
        s = f / r;
        c = g / r;
        g = d[i + 1] - p;
        r = (d[i] - g) * s + 2 * c * b;
        p = s * r;
        d[i + 1] = g + p;
        g = c * r - b;
        const low = i * n, high = (i + 1) * n;
        for (let k = 0; k < n; k++) {
          const kept = z[high + k];
          z[high + k] = s * z[low + k] + c * kept;
          z[low + k] = c * z[low + k] - s * kept;
        }
      }
      if (r === 0 && i >= l) continue;
      d[l] -= p;
      e[l] = g;
      e[m] = 0;
    }
  }
  return z;
}

/** Return L^-1 of a Hermitian positive definite matrix L L^H. */
export function inverseCholesky(matrix) {
  const n = matrix.shape[0];
  const l = complex(n, n).data;
  const at = (i, j) => 2 * (i * n + j);
  for (let j = 0; j < n; j++) {
    for (let i = j; i < n; i++) {
      let re = matrix.data[at(i, j)], im = matrix.data[at(i, j) + 1];
      for (let k = 0; k < j; k++) {
        const ar = l[at(i, k)], ai = l[at(i, k) + 1], br = l[at(j, k)], bi = l[at(j, k) + 1];
        re -= ar * br + ai * bi;
        im -= ai * br - ar * bi;
      }
      if (i === j) {
        if (!(re > 0)) throw new Error("the matrix is not positive definite");
        l[at(i, i)] = Math.sqrt(re);
      } else {
        l[at(i, j)] = re / l[at(j, j)];
        l[at(i, j) + 1] = im / l[at(j, j)];
      }
    }
  }
  const inverse = complex(n, n);
  for (let column = 0; column < n; column++) {
    for (let i = column; i < n; i++) {
      let re = i === column ? 1 : 0, im = 0;
      for (let k = column; k < i; k++) {
        const ar = l[at(i, k)], ai = l[at(i, k) + 1];
        const br = inverse.data[at(k, column)], bi = inverse.data[at(k, column) + 1];
        re -= ar * br - ai * bi;
        im -= ar * bi + ai * br;
      }
      inverse.data[at(i, column)] = re / l[at(i, i)];
      inverse.data[at(i, column) + 1] = im / l[at(i, i)];
    }
  }
  return inverse;
}

/** Apply a (new coil, coil) matrix to the coils of (coil, rows, columns). */
export function mixCoils(matrix, array) {
  const mixed = product(matrix, { shape: [array.shape[0], array.data.length / 2 / array.shape[0]], data: array.data });
  return { shape: [matrix.shape[0], ...array.shape.slice(1)], data: mixed.data };
}
