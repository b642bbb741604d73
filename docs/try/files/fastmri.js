// k-space in fastMRI's HDF5 files, and in others with a dataset 'kspace', read a slice at a time.

import { centred, complex } from "../mri/arrays.js";
import { InputError } from "../mri/errors.js";
import { full, mask as newMask } from "../mri/masks.js";
import { parseHeader } from "./header.js";
import { imageGrid, measuredArray } from "./image_grid.js";

/** Open a file by what finds its datasets: { description, nSlices, remarks, readSlice }. */
export function openFastmri(name, find) {
  const dataset = find("kspace");
  const numbers = complexNumbers(dataset);
  const { shape } = dataset;
  if (shape.length < 3 || shape.length > 4 || shape.includes(0)) {
    throw new InputError(
      `${dataset.label} has shape (${shape.join(", ")}), expected (slices, coils, rows, columns), or (slices, rows, ` +
        "columns) of a single coil",
    );
  }
  const header = find("ismrmrd_header");
  if (shape.length === 3 && shape[0] > 1 && !header) {
    throw new InputError(
      `${dataset.label} has shape (${shape.join(", ")}), which may be ${shape[0]} coils of one slice or ${shape[0]} ` +
        `slices of one coil: store it as (1, ${shape.join(", ")}) or as (${shape[0]}, 1, ${shape.slice(1).join(", ")})`,
    );
  }
  const [nSlices, nCoils] = shape.length === 4 ? shape : [shape[0], 1];
  const [rows, columns] = shape.slice(-2);
  let grid = { shape: [rows, columns], imageShape: null, remarks: [] };
  if (header) {
    const where = `${name}: 'ismrmrd_header'`;
    const encoding = parseHeader(header.text(), where).encodings[0];
    grid = imageGrid(...measuredArray(encoding, [rows, columns], where), encoding.recon, where);
    grid.remarks.unshift(...encoding.remarks.filter((remark) => !remark.includes("<trajectory>")));
  }
  const mask = readMask(find("mask"), rows, columns);
  return {
    description: `fastMRI file, ${nSlices} slices, ${nCoils} coils, ${rows} x ${columns}`,
    nSlices,
    remarks: grid.remarks,
    readSlice(index) {
      const part = [[index, index + 1], ...(shape.length === 4 ? [[0, nCoils]] : []), [0, rows], [0, columns]];
      const kspace = { shape: [nCoils, rows, columns], data: dataset.read(part, numbers) };
      return { kspace: centred(kspace, grid.shape), mask: mask && padded(mask, grid.shape), imageShape: grid.imageShape };
    },
  };
}

// What reads complex numbers as h5py and MATLAB write them: compounds of two floats, the real part first.
function complexNumbers({ metadata, isFloat, label }) {
  const members = metadata.compound_type?.members ?? [];
  const isComplex = members.length === 2 && members.every(({ type, size }) => isFloat(type) && [4, 8].includes(size));
  if (!isComplex || !members.every(({ littleEndian }) => littleEndian)) {
    throw new InputError(
      `${label} is not of complex numbers, expected complex64 or complex128: parts that stand apart are joined as real + ` +
        "1j * imaginary",
    );
  }
  const [{ offset: first, size }, { offset: second }] = members;
  return (view, n) => {
    const data = new Float64Array(2 * n);
    for (let i = 0; i < n; i++) {
      const at = i * metadata.size;
      data[2 * i] = size === 4 ? view.getFloat32(at + first, true) : Math.fround(view.getFloat64(at + first, true));
      data[2 * i + 1] = size === 4 ? view.getFloat32(at + second, true) : Math.fround(view.getFloat64(at + second, true));
    }
    return data;
  };
}

// The mask of all slices, (columns,) or (rows, columns), axes of one element left aside.
function readMask(dataset, rows, columns) {
  if (!dataset) return null;
  const sizes = dataset.shape.filter((n) => n !== 1);
  const isLines = sizes.length === 1 && sizes[0] === columns;
  if (!isLines && !(sizes.length === 2 && sizes[0] === rows && sizes[1] === columns)) {
    throw new InputError(
      `${dataset.label} has shape (${dataset.shape.join(", ")}), expected (${columns},) for the columns of k-space or ` +
        `(${rows}, ${columns}): sbim-deploy recon takes one for each slice`,
    );
  }
  const { size } = dataset.metadata;
  const data = dataset.read(dataset.shape.map((n) => [0, n]), (view, n) =>
    // Whatever the numbers are, 0 is that of all bytes; -0 of floats is no mask's.
    Uint8Array.from({ length: n }, (_, i) => {
      for (let byte = 0; byte < size; byte++) if (view.getUint8(i * size + byte)) return 1;
      return 0;
    }),
  );
  if (!data.includes(1)) throw new InputError(`${dataset.label} is all zero, expected sampled positions; repair or remove it`);
  return isLines ? newMask(1, columns, data) : newMask(rows, columns, data);
}

function padded(mask, [rows, columns]) {
  const plane = complex(mask.rows, mask.columns);
  mask.data.forEach((each, i) => (plane.data[2 * i] = each));
  const wide = centred(plane, [mask.rows === 1 ? 1 : rows, columns]);
  const data = Uint8Array.from({ length: wide.data.length / 2 }, (_, i) => wide.data[2 * i]);
  return full(newMask(mask.rows === 1 ? 1 : rows, columns, data), rows, columns);
}
