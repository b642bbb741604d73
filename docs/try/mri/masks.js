// Sampling masks: { rows, columns, data }, with 1 row where whole columns are sampled and the reverse.

import { centre } from "./arrays.js";

export const MIN_CALIB_LINES = 4;

export const mask = (rows, columns, data = new Uint8Array(rows * columns)) => ({ rows, columns, data });

export const count = (m) => m.data.reduce((sum, each) => sum + each, 0);

/** Return the mask on a grid, whole. */
export function full(m, rows, columns) {
  const result = mask(rows, columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      result.data[row * columns + column] =
        m.data[(m.rows === 1 ? 0 : row) * m.columns + (m.columns === 1 ? 0 : column)];
    }
  }
  return result;
}

/** Return a mask as lines where it consists of them; a line counts as whole at 99 %. */
export function compact(m) {
  const rows = new Uint8Array(m.rows), columns = new Uint8Array(m.columns);
  m.data.forEach((sampled, i) => {
    if (sampled) rows[Math.floor(i / m.columns)] = columns[i % m.columns] = 1;
  });
  const nRows = rows.reduce((sum, each) => sum + each, 0), nColumns = columns.reduce((sum, each) => sum + each, 0);
  if (count(m) < 0.99 * nRows * nColumns) return m;
  if (nRows === m.rows) return mask(1, m.columns, columns);
  if (nColumns === m.columns) return mask(m.rows, 1, rows);
  return mask(m.rows, m.columns, m.data.map((_, i) => rows[Math.floor(i / m.columns)] & columns[i % m.columns]));
}

/** Return the mask of the samples that are not zero in every coil of (coil, rows, columns), on the whole grid. */
export function nonZero(kspace) {
  const [nCoils, rows, columns] = kspace.shape;
  const result = mask(rows, columns);
  for (let coil = 0; coil < nCoils; coil++) {
    for (let i = 0; i < rows * columns; i++) {
      const place = 2 * (coil * rows * columns + i);
      if (kspace.data[place] !== 0 || kspace.data[place + 1] !== 0) result.data[i] = 1;
    }
  }
  return result;
}

/** Return k-space with zeros where the mask is 0. */
export function sampled(kspace, m) {
  const [nCoils, rows, columns] = kspace.shape;
  const whole = full(m, rows, columns).data;
  const data = kspace.data.slice();
  for (let i = 0; i < nCoils * rows * columns; i++) {
    if (!whole[i % (rows * columns)]) data[2 * i] = data[2 * i + 1] = 0;
  }
  return { shape: kspace.shape, data };
}

export const transposedMask = (m) => {
  const result = mask(m.columns, m.rows);
  for (let i = 0; i < m.data.length; i++) {
    result.data[(i % m.columns) * m.rows + Math.floor(i / m.columns)] = m.data[i];
  }
  return result;
};

/** Return the middle of a mask on a smaller grid; an axis of 1 stays. */
export function centredMask(m, [rows, columns]) {
  const to = mask(Math.min(m.rows, rows), Math.min(m.columns, columns));
  const down = centre(m.rows) - centre(to.rows), right = centre(m.columns) - centre(to.columns);
  for (let row = 0; row < to.rows; row++) {
    for (let column = 0; column < to.columns; column++) {
      to.data[row * to.columns + column] = m.data[(row + down) * m.columns + column + right];
    }
  }
  return to;
}

// The run of sampled positions around n // 2 that is symmetric about it, as [start, stop].
function centreRun(line) {
  const middle = centre(line.length);
  if (!line[middle]) return [0, 0];
  let above = 0, below = 0;
  while (middle + above < line.length && line[middle + above]) above++;
  while (below < middle && line[middle - 1 - below]) below++;
  return [middle - Math.min(below, above), middle + Math.min(above, below + 1)];
}

/** Return the rows and columns, [start, stop] each, of the largest centred block that is sampled in full. */
export function calibrationBlock(m, rows, columns) {
  const whole = full(m, rows, columns).data;
  const at = (row, column) => whole[row * columns + column];
  if (m.rows === 1 || m.columns === 1) {
    const column = Uint8Array.from({ length: rows }, (_, row) => at(row, centre(columns)));
    const row = Uint8Array.from({ length: columns }, (_, each) => at(centre(rows), each));
    return [centreRun(column), centreRun(row)];
  }
  const halves = Int32Array.from({ length: rows }, (_, row) => {
    let half = 0;
    while (
      half < centre(columns) &&
      at(row, centre(columns) + half) &&
      at(row, centre(columns) - 1 - half)
    )
      half++;
    return half;
  });
  let best = [0, 0, 0], rowHalf = 0, columnHalf = 0, width = Infinity;
  for (let half = 1; half <= centre(rows); half++) {
    width = Math.min(width, halves[centre(rows) + half - 1], halves[centre(rows) - half]);
    const side = [Math.min(half, width), half * width];
    if (half === 1 || side[0] > best[0] || (side[0] === best[0] && side[1] > best[1])) {
      best = side;
      rowHalf = half;
      columnHalf = width;
    }
  }
  if (!columnHalf) return [[0, 0], [0, 0]];
  return [
    [centre(rows) - rowHalf, centre(rows) + rowHalf],
    [centre(columns) - columnHalf, centre(columns) + columnHalf],
  ];
}

/** Return the shorter side of that block. */
export function calibrationLines(m, rows, columns) {
  return Math.min(...calibrationBlock(m, rows, columns).map(([start, stop]) => stop - start));
}
