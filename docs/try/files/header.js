// What the page must know of MRD's header: the JavaScript of part of src/sbim_deploy/mrd/header.py.

import { InputError } from "../mri/errors.js";
import { find, findAll, numberOf, parseXml, textOf } from "./xml.js";

const DEFAULT_NOISE_BANDWIDTH = 0.793, SIZE_TOLERANCE = 0.01, MAX_MATRIX_SIZE = 2 ** 20;

/** Return { encodings, vendor, noiseBandwidth }. An encoding has { encoded, recon, trajectory, step1, step2, mode, remarks },
 * and its spaces { size, extent } of [readout, step 1, step 2]. */
export function parseHeader(text, where) {
  const root = parseXml(text.replace(/\0+$/, ""), where);
  const found = findAll(root, "encoding");
  if (!found.length) throw new InputError(`${where}: has no <encoding>, expected an ISMRMRD header; repair or remove it`);
  return {
    encodings: found.map((each) => parseEncoding(each, where)),
    vendor: textOf(root, "acquisitionSystemInformation", "systemVendor") ?? "",
    noiseBandwidth:
      numberOf(root, where, "acquisitionSystemInformation", "relativeReceiverNoiseBandwidth") ?? DEFAULT_NOISE_BANDWIDTH,
  };
}

function parseEncoding(element, where) {
  const remarks = [];
  const encoded = space(element, "encodedSpace", where);
  if (!find(element, "reconSpace")) remarks.push("the header has no <reconSpace>: the image is encodedSpace's");
  const recon = find(element, "reconSpace") ? space(element, "reconSpace", where) : encoded;
  const trajectory = textOf(element, "trajectory");
  if (trajectory === null) remarks.push("the header has no <trajectory>: taken as cartesian");
  let step1 = limit(element, "kspace_encoding_step_1", where);
  if (step1 && !step1.maximum && !step1.center && encoded.size[1] > 1) step1 = null;
  return {
    encoded,
    recon,
    trajectory: trajectory ?? "cartesian",
    step1,
    step2: limit(element, "kspace_encoding_step_2", where),
    mode: textOf(element, "parallelImaging", "calibrationMode"),
    remarks,
  };
}

function space(encoding, name, where) {
  const of = (part) => ["x", "y", "z"].map((axis) => numberOf(encoding, where, name, part, axis));
  const size = of("matrixSize"), extent = of("fieldOfView_mm");
  size[2] ||= 1;
  extent[2] ||= 1;
  const rounded = size.map((each) => Math.round(each));
  const isWrong = size.some(
    (each, i) => each === null || Math.abs(each - rounded[i]) > SIZE_TOLERANCE || rounded[i] < 1 || rounded[i] > MAX_MATRIX_SIZE,
  );
  if (isWrong || extent.some((each) => !(each > 0))) {
    throw new InputError(
      `${where}: <${name}> has the matrix size ${size.join(" x ")} over ${extent.join(" x ")} mm, expected positive ` +
        "sizes; repair or remove the header",
    );
  }
  return { size: rounded, extent };
}

function limit(encoding, name, where) {
  if (!find(encoding, "encodingLimits", name)) return null;
  const of = (bound) => numberOf(encoding, where, "encodingLimits", name, bound) ?? 0;
  return { minimum: of("minimum"), maximum: of("maximum"), center: of("center") };
}
