// k-space in MRD's (ISMRMRD's) HDF5 files: 2D Cartesian readouts, put where they belong, as
// src/sbim_deploy/kspace/placement.py, readouts.py and noise_scan.py do.

import { centre, centred, complex } from "../mri/arrays.js";
import { InputError } from "../mri/errors.js";
import { MIN_CALIB_LINES, calibrationBlock, mask as newMask } from "../mri/masks.js";
import { mixCoils } from "../mri/matrices.js";
import { whiteningMatrix } from "../mri/whitening.js";
import { parseHeader } from "./header.js";
import { imageGrid, measuredReadout } from "./image_grid.js";

const NOISE = 19, CALIBRATION = 20, CALIBRATION_AND_IMAGE = 21, REVERSE = 22;
const LEFT_OUT = [23, 24, 26, 27, 28, 29, 30, 31]; // navigation, phase correction, feedback, dummies and the like
const COMPRESSED = [53, 54, 55, 56];
const ROWS_AT_ONCE = 64, FEW_OTHERS = 8, MAX_KEPT_LINES = 48;
const COUNTERS = ["encoding", "contrast", "phase", "repetition", "set", "slice"];

/** Open a file by its header and its table: { description, nSlices, remarks, readSlice }. */
export function openMrd(name, xml, table) {
  const header = parseHeader(xml.text(), `${name}: header`);
  const reader = readoutReader(table);
  const index = sortReadouts(name, header, reader);
  const remarks = [...index.grid.image.remarks, ...index.remarks];
  const conjugated = /^siemens/i.test(header.vendor.trim());
  if (conjugated) remarks.push(`k-space is conjugated, as raw data of '${header.vendor.trim()}' need it`);
  return {
    description: `MRD file, ${index.keys.length} slices, ${index.nCoils} coils, ${index.grid.image.shape.join(" x ")}`,
    nSlices: index.keys.length,
    remarks,
    readSlice: (place) => assemble(name, header, reader, index, place, conjugated),
  };
}

// The fixed part of a readout, by the places that the file says, and its samples where they are wanted.
function readoutReader(table) {
  const parts = Object.fromEntries((table.metadata.compound_type?.members ?? []).map((each) => [each.name, each]));
  const head = Object.fromEntries((parts.head?.compound_type?.members ?? []).map((each) => [each.name, each.offset]));
  const idx = parts.head?.compound_type?.members.find((each) => each.name === "idx");
  if (!parts.data || !idx) {
    throw new InputError(`${table.label} is no table of readouts with 'head' and 'data', expected MRD's; convert the file again`);
  }
  const counter = Object.fromEntries(idx.compound_type.members.map((each) => [each.name, idx.offset + each.offset]));
  const headOf = (view, row) => {
    const at = row * table.metadata.size + parts.head.offset;
    const short = (place) => view.getUint16(at + place, true);
    const flags = view.getBigUint64(at + head.flags, true);
    return {
      has: (flag) => ((flags >> BigInt(flag - 1)) & 1n) === 1n,
      samples: short(head.number_of_samples),
      channels: short(head.active_channels),
      first: short(head.discard_pre),
      last: short(head.number_of_samples) - short(head.discard_post),
      centre: short(head.center_sample),
      trajectory: short(head.trajectory_dimensions),
      dwell: view.getFloat32(at + head.sample_time_us, true),
      line: short(counter.kspace_encode_step_1),
      partition: short(counter.kspace_encode_step_2),
      encoding: short(head.encoding_space_ref),
      contrast: short(counter.contrast),
      phase: short(counter.phase),
      repetition: short(counter.repetition),
      set: short(counter.set),
      slice: short(counter.slice),
    };
  };
  return {
    n: table.shape[0],
    heads(start, stop) {
      return table.read([[start, stop]], (view, n) => Array.from({ length: n }, (_, row) => headOf(view, row)));
    },
    /** One readout with its samples, complex (channel, sample). */
    readout(number) {
      return table.read([[number, number + 1]], (view, _, Module) => {
        const header = headOf(view, 0);
        const length = view.getUint32(parts.data.offset, true), pointer = view.getUint32(parts.data.offset + 4, true);
        const where = `readout ${number}`;
        if (COMPRESSED.some(header.has)) throw new InputError(`${where}: its samples are compressed, expected plain ones`);
        if (length !== 2 * header.channels * header.samples) {
          throw new InputError(`${where}: has ${length} numbers, expected ${2 * header.channels * header.samples} by its header`);
        }
        const floats = new Float32Array(Module.HEAPU8.slice(pointer, pointer + 4 * length).buffer);
        if (!floats.every(Number.isFinite)) throw new InputError(`${where}: has samples that are not finite; leave its slice out`);
        return { header, data: { shape: [header.channels, header.samples], data: Float64Array.from(floats) } };
      });
    },
  };
}

// Which readouts make which slice, and the grid that they are on.
function sortReadouts(name, header, reader) {
  const images = new Map(), calibrations = new Map();
  const noise = [], reaches = new Map(), channels = new Map(), partitions = new Map();
  const everyHead = [];
  for (let start = 0; start < reader.n; start += ROWS_AT_ONCE) {
    everyHead.push(...reader.heads(start, Math.min(start + ROWS_AT_ONCE, reader.n)));
  }
  const roleOf = (head) => {
    if (head.has(NOISE)) return "noise";
    if (LEFT_OUT.some(head.has)) return null;
    if (head.has(CALIBRATION_AND_IMAGE)) return "both";
    const { mode } = encodingOf(name, header, head);
    if (head.has(CALIBRATION)) return ["embedded", "interleaved"].includes(mode) ? "both" : "calibration";
    return "image";
  };
  const roles = everyHead.map(roleOf);
  everyHead.forEach((head, i) => {
    if (roles[i] === "noise") noise.push(i);
    else if (roles[i]) channels.set(head.channels, (channels.get(head.channels) ?? 0) + 1);
  });
  const nCoils = Math.max(0, ...channels.keys());
  const others = [...channels].reduce((n, [count, readouts]) => n + (count === nCoils ? 0 : readouts), 0);
  if (others * FEW_OTHERS > (channels.get(nCoils) ?? 0)) {
    throw new InputError(`${name}: ${others} readouts have other channels than ${nCoils}, expected one number of channels`);
  }
  const remarks = others ? [`${others} readouts are left out: other channels`] : [];
  everyHead.forEach((head, i) => {
    const role = roles[i];
    if (!role || role === "noise" || head.channels !== nCoils) return;
    const encoding = encodingOf(name, header, head);
    if (encoding.trajectory !== "cartesian") {
      throw new InputError(`${name}: the trajectory is ${encoding.trajectory}, expected cartesian: regrid it first`);
    }
    const partition = partitions.get(head.encoding) ?? head.partition;
    partitions.set(head.encoding, partition);
    if (head.partition !== partition || (partition && encoding.encoded.size[2] === 1 && !encoding.step2?.maximum)) {
      throw new InputError(
        `${name}: is 3D, with kspace_encode_step_2 of ${partition} and ${head.partition}, expected 2D slices: transform along it first`,
      );
    }
    const key = COUNTERS.map((counter) => head[counter]).join(",");
    const store = (slices) => slices.set(key, [...(slices.get(key) ?? []), i]);
    if (role !== "calibration") store(images);
    const isApart = role === "both" && !["embedded", "interleaved"].includes(encoding.mode);
    if (role === "calibration" || isApart) store(calibrations);
    const reach = head.has(REVERSE)
      ? Math.max(head.last - 1 - head.centre, head.centre - head.first)
      : Math.max(head.centre - head.first, head.last - head.centre);
    reaches.set(head.encoding, Math.max(reach, reaches.get(head.encoding) ?? 0));
  });
  if (!images.size) throw new InputError(`${name}: none of its ${reader.n} readouts is of an image, expected some; check the file`);
  const order = (one, other) => {
    const [a, b] = [one, other].map((key) => key.split(",").map(Number));
    return a.map((each, i) => each - b[i]).find((each) => each) ?? 0;
  };
  const keys = [...images.keys()].sort(order);
  const grids = [...new Set(keys.map((key) => Number(key.split(",")[0])))].map((space) =>
    makeGrid(header.encodings[space], reaches.get(space), `${name}: encoding space ${space}`),
  );
  if (grids.some(({ image }) => String(image.shape) !== String(grids[0].image.shape))) {
    throw new InputError(`${name}: its encoding spaces have images of several sizes, expected one; split the file`);
  }
  return { images, calibrations, noise, nCoils, keys, grid: grids[0], remarks };
}

function encodingOf(name, header, head) {
  const encoding = header.encodings[head.encoding];
  if (!encoding) throw new InputError(`${name}: a readout is of encoding space ${head.encoding}, expected one of ${header.encodings.length}`);
  return encoding;
}

function makeGrid(encoding, reach, where) {
  const rows = measuredReadout(encoding, reach, where);
  const columns = { samples: encoding.encoded.size[1], extent: encoding.encoded.extent[1] };
  const image = imageGrid(rows, columns, encoding.recon, where);
  image.remarks.unshift(...encoding.remarks);
  const lines = encoding.step1 ?? { minimum: 0, maximum: columns.samples - 1, center: centre(columns.samples) };
  return { placed: [Math.max(rows.samples, encoding.encoded.size[0]), columns.samples], lines, image };
}

function assemble(name, header, reader, index, place, conjugated) {
  const key = index.keys[place];
  const own = sumReadouts(name, reader, index, index.images.get(key));
  const noise = noiseOf(reader, index, header, own.dwell);
  const kspace = finished(own, noise?.matrix);
  const spot = (each) => [each.split(",")[0], each.split(",")[5]].join();
  const near = (among) => [...among.keys()].sort().filter((each) => spot(each) === spot(key));
  const ownWidth = widthOf(own);
  const keys = near(index.calibrations);
  const separate = keys.includes(key) ? key : keys[0];
  let calibration = null;
  if (separate !== undefined) {
    const lines = sumReadouts(name, reader, index, index.calibrations.get(separate));
    if (widthOf(lines) > ownWidth) calibration = finished(lines, noise?.matrix);
  }
  if (!calibration && ownWidth < MIN_CALIB_LINES) {
    for (const donor of near(index.images)) {
      const lines = sumReadouts(name, reader, index, index.images.get(donor));
      const width = widthOf(lines);
      if (width < MIN_CALIB_LINES) continue;
      calibration = middleColumns(finished(lines, noise?.matrix), Math.min(width, MAX_KEPT_LINES));
      break;
    }
  }
  if (conjugated) [kspace, calibration].forEach((each) => each && conjugate(each));
  const level = noise?.tellsLevel ? averagedNoise(own) : null;
  return { kspace, calibration, imageShape: index.grid.image.imageShape, noise: level };
}

const conjugate = (array) => {
  for (let i = 1; i < array.data.length; i += 2) array.data[i] = -array.data[i];
};

// The sums of the samples of some readouts on the grid of the image, and how many went into each.
function sumReadouts(name, reader, { grid, nCoils }, numbers) {
  const [rows, columns] = grid.placed;
  const sums = complex(nCoils, rows, columns), counts = complex(rows, columns);
  let dwell = 0, nearest = Infinity;
  for (const number of numbers) {
    const { header, data } = reader.readout(number);
    const where = `${name}: readout ${number}`;
    const column = header.line - grid.lines.center + centre(columns);
    if (header.line < grid.lines.minimum || header.line > grid.lines.maximum) {
      throw new InputError(
        `${where}: kspace_encode_step_1 is ${header.line}, expected ${grid.lines.minimum} to ${grid.lines.maximum} as the ` +
          "header's limits say; repair it",
      );
    }
    if (column < 0 || column >= columns) {
      throw new InputError(
        `${where}: line ${header.line} lies ${header.line - grid.lines.center} from the centre, outside the ${columns} ` +
          "encoded lines; check the header's limits",
      );
    }
    const low = -centre(rows);
    const isReversed = header.has(REVERSE);
    for (let sample = header.first; sample < header.last; sample++) {
      let row = (isReversed ? header.centre - sample : sample - header.centre) - low;
      // Of an even number of samples + n / 2 and - n / 2 are the same.
      if (isReversed && row === rows && rows % 2 === 0) {
        if (header.last - header.first !== rows) continue;
        row = 0;
      }
      if (row < 0 || row >= rows) {
        throw new InputError(
          `${where}: samples ${header.first} to ${header.last - 1} around center_sample ${header.centre} do not fit ${rows} ` +
            "encoded samples; check center_sample and the encoded matrix",
        );
      }
      counts.data[2 * (row * columns + column)]++;
      for (let coil = 0; coil < nCoils; coil++) {
        const to = 2 * ((coil * rows + row) * columns + column), from = 2 * (coil * header.samples + sample);
        sums.data[to] += data.data[from];
        sums.data[to + 1] += data.data[from + 1];
      }
    }
    const distance = Math.abs(header.line - grid.lines.center);
    if (distance < nearest) [nearest, dwell] = [distance, header.dwell];
  }
  return { ...fitted(sums, counts, grid.image), dwell };
}

// The rows that were measured, with zeros around them up to the grid of the image.
function fitted(sums, counts, image) {
  const [rows, columns] = counts.shape, measured = image.measured[0];
  if (measured < rows) {
    const beyond = centre(rows) + centre(measured), start = centre(rows) - centre(measured);
    const edge = (array) => array.data.slice();
    const whole = edge(sums), counted = edge(counts);
    sums = centred(sums, [measured, columns]);
    counts = centred(counts, [measured, columns]);
    if (measured % 2 === 0) {
      for (let column = 0; column < columns; column++) {
        if (!counted[2 * ((start + 1) * columns + column)]) continue;
        counts.data[2 * column] += counted[2 * (beyond * columns + column)];
        for (let coil = 0; coil < sums.shape[0]; coil++) {
          for (const k of [0, 1]) {
            sums.data[2 * (coil * measured * columns + column) + k] += whole[2 * ((coil * rows + beyond) * columns + column) + k];
          }
        }
      }
    }
  }
  return { sums: centred(sums, image.shape), counts: centred(counts, image.shape) };
}

function finished({ sums, counts }, matrix) {
  const averaged = { shape: sums.shape, data: sums.data.slice() };
  const pixels = counts.data.length / 2;
  for (let i = 0; i < averaged.data.length / 2; i++) {
    const n = Math.max(counts.data[2 * (i % pixels)], 1);
    averaged.data[2 * i] /= n;
    averaged.data[2 * i + 1] /= n;
  }
  return matrix ? mixCoils(matrix, averaged) : averaged;
}

function averagedNoise({ counts }) {
  let sum = 0, n = 0;
  for (let i = 0; i < counts.data.length; i += 2) {
    if (!counts.data[i]) continue;
    sum += 1 / counts.data[i];
    n++;
  }
  return Math.sqrt(sum / n);
}

// How many sampled columns form the run around the centre.
function widthOf({ counts }) {
  const [rows, columns] = counts.shape;
  const line = newMask(1, columns);
  for (let i = 0; i < rows * columns; i++) if (counts.data[2 * i]) line.data[i % columns] = 1;
  const [start, stop] = calibrationBlock(line, 1, columns)[1];
  return stop - start;
}

function middleColumns(kspace, width) {
  const [nCoils, rows, columns] = kspace.shape;
  return centred(centred(kspace, [rows, width]), [rows, columns]);
}

// The whitening by the noise readouts, and whether it makes the noise of a dwell time 1; null without them.
function noiseOf(reader, { noise, nCoils }, { noiseBandwidth }, dwell) {
  let products = null, samples = 0, own = 0;
  for (const number of noise) {
    const { header, data } = reader.readout(number);
    if (header.channels !== nCoils || (products && header.dwell !== own)) continue;
    products ??= complex(nCoils, nCoils);
    own = header.dwell;
    samples += header.samples;
    for (let c = 0; c < nCoils; c++) {
      for (let d = 0; d < nCoils; d++) {
        for (let k = 0; k < header.samples; k++) {
          const i = 2 * (c * header.samples + k), j = 2 * (d * header.samples + k);
          products.data[2 * (c * nCoils + d)] += data.data[i] * data.data[j] + data.data[i + 1] * data.data[j + 1];
          products.data[2 * (c * nCoils + d) + 1] += data.data[i + 1] * data.data[j] - data.data[i] * data.data[j + 1];
        }
      }
    }
  }
  if (!products || samples <= nCoils) return null;
  const covariance = { shape: products.shape, data: products.data.map((each) => each / (samples - 1)) };
  const isKnown = dwell > 0 && own > 0;
  const ratio = isKnown ? (dwell / own) * noiseBandwidth : 0.5;
  const matrix = whiteningMatrix(covariance);
  return matrix && { matrix: { shape: matrix.shape, data: matrix.data.map((each) => each * Math.sqrt(ratio)) }, tellsLevel: isKnown };
}
