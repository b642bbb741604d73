// k-space in NumPy's .npy (NEP 1), read a slice at a time.

import { InputError } from "../mri/errors.js";

const HEADER_BYTES = 65536;
const TYPES = { "<c8": [Float32Array, 8], "<c16": [Float64Array, 16] };

/** Open a file: { description, nSlices, remarks, readSlice }. */
export async function openNpy(file) {
  const bytes = new Uint8Array(await file.slice(0, HEADER_BYTES).arrayBuffer());
  const version = bytes[6];
  const view = new DataView(bytes.buffer);
  const wide = version >= 2;
  const start = (wide ? 12 : 10) + (wide ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder().decode(bytes.subarray(wide ? 12 : 10, start));
  const type = /'descr':\s*'([^']*)'/.exec(header)?.[1];
  const fortran = /'fortran_order':\s*(True|False)/.exec(header)?.[1];
  const sizes = /'shape':\s*\(([^)]*)\)/.exec(header)?.[1];
  if (!type || !fortran || sizes === undefined) {
    throw new InputError(`${file.name}: the header of NumPy's .npy is damaged: save the array again`);
  }
  const shape = sizes.split(",").filter((each) => each.trim()).map(Number);
  if (!(type in TYPES)) {
    throw new InputError(
      `${file.name}: has dtype ${type}, expected complex64 or complex128: parts that stand apart are joined as ` +
        "real + 1j * imaginary",
    );
  }
  if (shape.length < 2 || shape.length > 4 || shape.includes(0)) {
    throw new InputError(
      `${file.name}: has shape ${shape.join(" x ") || "()"}, expected (coils, rows, columns), (rows, columns) of one coil, ` +
        "or (slices, coils, rows, columns)",
    );
  }
  if (fortran === "True") {
    throw new InputError(
      `${file.name}: the array is stored in Fortran's order, expected C's: save numpy.ascontiguousarray of it`,
    );
  }
  const [Parts, itemBytes] = TYPES[type];
  const [nSlices, nCoils, rows, columns] = [...Array(4 - shape.length).fill(1), ...shape];
  const expected = start + nSlices * nCoils * rows * columns * itemBytes;
  if (file.size < expected) {
    throw new InputError(`${file.name}: has ${file.size} bytes, expected ${expected}: it is cut off, copy it again`);
  }
  return {
    description: `NumPy array ${shape.join(" x ")}`,
    nSlices,
    remarks: [],
    async readSlice(index) {
      const length = nCoils * rows * columns;
      const from = start + index * length * itemBytes;
      const part = new Parts(await file.slice(from, from + length * itemBytes).arrayBuffer());
      // As in Python, single precision from here on.
      return { kspace: { shape: [nCoils, rows, columns], data: Float64Array.from(part, Math.fround) } };
    },
  };
}

/** Return a file of complex64 (rows, columns). */
export function npyBytes({ shape, data }) {
  const head = `{'descr': '<c8', 'fortran_order': False, 'shape': (${shape.join(", ")}), }`;
  const text = `${head.padEnd(128 - 10 - 1)}\n`;
  const bytes = new Uint8Array(128 + data.byteLength);
  bytes.set([0x93, ...new TextEncoder().encode("NUMPY"), 1, 0, text.length, 0]);
  bytes.set(new TextEncoder().encode(text), 10);
  bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), 128);
  return bytes;
}
