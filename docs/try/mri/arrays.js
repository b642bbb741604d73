// Arrays of complex numbers: real and imaginary part side by side, in double precision.
// A complex array is { shape, data }, data having 2 numbers for each element, the last axis fastest.

export const size = (shape) => shape.reduce((product, n) => product * n, 1);

export const complex = (...shape) => ({ shape, data: new Float64Array(2 * size(shape)) });

export const copy = (array) => ({ shape: [...array.shape], data: array.data.slice() });

export const centre = (n) => Math.floor(n / 2);

/** Return sum_i conj(a_i) a_i. */
export function energy(array) {
  let sum = 0;
  for (const part of array.data) sum += part * part;
  return sum;
}

export const norm = (array) => Math.sqrt(energy(array));

/** Return the real part of sum_i conj(a_i) b_i. */
export function innerReal(a, b) {
  let sum = 0;
  for (let i = 0; i < a.data.length; i++) sum += a.data[i] * b.data[i];
  return sum;
}

export function scaled(array, factor) {
  return { shape: [...array.shape], data: array.data.map((part) => part * factor) };
}

/** Add factor b to a. */
export function addTo(a, b, factor = 1) {
  for (let i = 0; i < a.data.length; i++) a.data[i] += factor * b.data[i];
  return a;
}

export function difference(a, b) {
  return addTo(copy(a), b, -1);
}

export function magnitudes(array) {
  return Float64Array.from({ length: array.data.length / 2 }, (_, i) =>
    Math.hypot(array.data[2 * i], array.data[2 * i + 1]),
  );
}

export function largest(array) {
  return magnitudes(array).reduce((most, each) => Math.max(most, each), 0);
}

/** The value below which so many percent lie, interpolated linearly, as numpy.percentile. */
export function percentile(values, percent) {
  const sorted = Float64Array.from(values).sort();
  const place = (percent / 100) * (sorted.length - 1);
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (place - below) * (sorted[above] - sorted[below]);
}

export const median = (values) => percentile(values, 50);

/** The coils of (coil, rows, columns), each a view (rows, columns). */
export function coils(array) {
  const [n, rows, columns] = array.shape;
  const step = 2 * rows * columns;
  return Array.from({ length: n }, (_, i) => ({
    shape: [rows, columns],
    data: array.data.subarray(i * step, (i + 1) * step),
  }));
}

function place(from, to) {
  const [rows, columns] = from.shape.slice(-2);
  const [newRows, newColumns] = to.shape.slice(-2);
  const down = centre(newRows) - centre(rows);
  const right = centre(newColumns) - centre(columns);
  const images = size(from.shape.slice(0, -2));
  for (let image = 0; image < images; image++) {
    for (let row = Math.max(0, -down); row < Math.min(rows, newRows - down); row++) {
      const first = Math.max(0, -right);
      const last = Math.min(columns, newColumns - right);
      const source = 2 * ((image * rows + row) * columns + first);
      const target = 2 * ((image * newRows + row + down) * newColumns + first + right);
      to.data.set(from.data.subarray(source, source + 2 * (last - first)), target);
    }
  }
  return to;
}

/** Return the middle of the last two axes, or the array in the middle of zeros; n // 2 stays n // 2. */
export function centred(array, [rows, columns]) {
  const [ownRows, ownColumns] = array.shape.slice(-2);
  if (ownRows === rows && ownColumns === columns) return array;
  return place(array, complex(...array.shape.slice(0, -2), rows, columns));
}

/** Swap the last two axes. */
export function transposed(array) {
  const [rows, columns] = array.shape.slice(-2);
  const result = complex(...array.shape.slice(0, -2), columns, rows);
  const images = size(array.shape.slice(0, -2));
  for (let image = 0; image < images; image++) {
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const from = 2 * ((image * rows + row) * columns + column);
        const to = 2 * ((image * columns + column) * rows + row);
        result.data[to] = array.data[from];
        result.data[to + 1] = array.data[from + 1];
      }
    }
  }
  return result;
}
