// Whatever file was dropped, told by its first bytes.

import { InputError } from "../mri/errors.js";
import { openNpy } from "./npy.js";

const begins = (bytes, text) => [...text].every((each, i) => bytes[i] === each.charCodeAt(0));

export async function openKspace(file) {
  const bytes = new Uint8Array(await file.slice(0, 16).arrayBuffer());
  if (begins(bytes, "\x93NUMPY")) return openNpy(file);
  if (begins(bytes, "\x89HDF\r\n\x1a\n")) return (await import("./hdf5.js")).openHdf5(file);
  const kinds = [["PK", "a zip or .npz archive"], ["MATLAB", "a MATLAB file"], ["MRD_", "an MRD version 2 stream"]];
  const kind = file.size === 0 ? "an empty file" : (kinds.find(([text]) => begins(bytes, text))?.[1] ?? "none of them");
  throw new InputError(
    `${file.name} is ${kind}, expected fastMRI or ISMRMRD HDF5 (.h5) or NumPy's .npy with k-space: ` +
      "sbim-deploy recon reads more formats",
  );
}
