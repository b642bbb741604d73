// HDF5 by h5wasm: fastMRI's files and MRD's (ISMRMRD). Datasets are read as bytes, a part at a time, since the
// library would make an array of every number.

import { InputError } from "../mri/errors.js";
import { openFastmri } from "./fastmri.js";
import { openMrd } from "./mrd.js";

export async function openHdf5(file) {
  const library = await import("../built/hdf5_hl.js");
  const { FS } = await library.ready;
  const folder = `/file-${performance.now()}`;
  FS.mkdir(folder);
  if (globalThis.FileReaderSync && FS.filesystems?.WORKERFS) {
    FS.mount(FS.filesystems.WORKERFS, { blobs: [{ name: "scan.h5", data: file }] }, folder);
  } else {
    FS.writeFile(`${folder}/scan.h5`, new Uint8Array(await file.arrayBuffer()));
  }
  let root;
  try {
    root = new library.File(`${folder}/scan.h5`, "r");
    root.keys();
  } catch {
    throw new InputError(`${file.name}: is damaged HDF5, or cut off: copy or save it again`);
  }
  const find = (path) => {
    let found = null;
    try {
      found = root.get(path);
    } catch {
      // there is no such group
    }
    return found?.type === "Dataset" ? wrap(found, library, `${file.name}: '${path}'`) : null;
  };
  if (find("kspace")) return openFastmri(file.name, find);
  const group = root.keys().find((name) => find(`${name}/xml`) && find(`${name}/data`));
  if (group) return openMrd(file.name, find(`${group}/xml`), find(`${group}/data`));
  const held = root.keys().slice(0, 8).join(", ");
  throw new InputError(
    `${file.name}: holds ${held || "nothing"}, expected 'kspace' of a fastMRI file or 'dataset/data' of an MRD file: ` +
      "name the dataset so, or save the k-space as .npy",
  );
}

function wrap(dataset, { Module }, label) {
  const { metadata } = dataset;
  return {
    label,
    shape: metadata.shape ?? [],
    metadata,
    isFloat: (type) => type === Module.H5T_class_t.H5T_FLOAT.value,
    /** The text of a dataset of one string. */
    text() {
      const { value } = dataset;
      const text = Array.isArray(value) ? value[0] : value;
      if (typeof text !== "string") throw new InputError(`${label}: is no text, expected a header in XML`);
      return text;
    },
    /** Give use(view, n) the bytes of a part, [start, stop] along each axis, and return what it returns. */
    read(ranges, use) {
      const count = ranges.map(([start, stop]) => BigInt(stop - start));
      const offset = ranges.map(([start]) => BigInt(start));
      const n = ranges.reduce((product, [start, stop]) => product * (stop - start), 1);
      const pointer = Module._malloc(n * metadata.size);
      if (!pointer) throw new InputError(`${label}: ${n * metadata.size} bytes do not fit into the browser's memory`);
      let reclaim = false;
      try {
        const strides = ranges.map(() => 1n);
        const failed = Module.get_dataset_data(dataset.file_id, dataset.path, count, offset, strides, BigInt(pointer)) < 0;
        if (failed) throw new InputError(`${label}: cannot be read, the file is damaged: copy it again`);
        reclaim = true;
        return use(new DataView(Module.HEAPU8.buffer, pointer, n * metadata.size), n, Module);
      } finally {
        if (reclaim && metadata.type === Module.H5T_class_t.H5T_COMPOUND.value) {
          Module.reclaim_vlen_memory_count(dataset.file_id, dataset.path, "", BigInt(pointer), count);
        }
        Module._free(pointer);
      }
    },
  };
}
