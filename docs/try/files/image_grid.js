// From a header's two spaces to the grid of k-space and the image: the JavaScript of
// src/sbim_deploy/kspace/image_grid.py, which says why.

import { InputError } from "../mri/errors.js";

const MAX_RATIO = 64, MAX_OVERSAMPLING = 8, MAX_PADDING = 8, EXTENT_TOLERANCE = 0.02, PIXEL_TOLERANCE = 1;

export const half = (samples) => Math.floor((samples + 1) / 2);
const isNear = (one, other) => Math.abs(one - other) <= EXTENT_TOLERANCE * other;

/** Return { samples, extent, remark } of the readout, by how far all readouts reach from their centre. */
export function measuredReadout({ encoded, recon }, reach, where) {
  const samples = encoded.size[0], extent = encoded.extent[0];
  const pixels = recon.size[0], wanted = recon.extent[0];
  const said = `encodedSpace has ${samples} samples over ${extent} mm and reconSpace ${pixels} pixels over ${wanted} mm`;
  if (reach <= half(samples)) return withOversamplingRemoved(samples, extent, wanted, reach, said, where);
  let factor = 2;
  while (factor <= MAX_OVERSAMPLING && reach > half(factor * samples)) factor++;
  if (factor > MAX_OVERSAMPLING || reach !== half(factor * samples)) {
    throw new InputError(
      `${where}: readouts reach ${reach} samples from their centre, which do not fit ${samples} encoded samples, nor an ` +
        `integer times as many: ${said}; check center_sample and the encoded matrix`,
    );
  }
  const n = factor * samples;
  if (!isNear(extent / samples, wanted / pixels) && isNear(extent / n, wanted / pixels)) {
    if (extent < 1.5 * wanted) {
      throw new InputError(
        `${where}: readouts have ${n} samples, either ${factor} times oversampled or ${factor} times as fine as the ` +
          `header says: ${said}; repair the header`,
      );
    }
    return { samples: n, extent, remark: `readouts have ${n} samples: encodedSpace's ${samples} was left aside` };
  }
  const remark =
    `readouts have ${n} samples where encodedSpace has ${samples}: taken as ${factor} times oversampled, over ` +
    `${factor * extent} mm`;
  return { samples: n, extent: factor * extent, remark };
}

function withOversamplingRemoved(samples, extent, wanted, reach, said, where) {
  const factor = Math.round(extent / wanted);
  if (!(factor >= 2 && isNear(extent, factor * wanted)) || samples % factor) return { samples, extent };
  const rest = samples / factor;
  if (reach === half(rest)) {
    const remark =
      `readouts have ${rest} samples where encodedSpace has ${samples} over ${extent} mm: their ${factor} times ` +
      "oversampling is taken as removed";
    return { samples: rest, extent: extent / factor, remark };
  }
  if (reach < half(rest)) {
    throw new InputError(
      `${where}: readouts reach ${reach} samples from their centre, either of ${samples} or, with their oversampling ` +
        `removed, of ${rest}: ${said}; pad the readouts with zeros or repair the header`,
    );
  }
  return { samples, extent };
}

/** Return the axes of an array [rows, columns] of k-space that is stored whole, readout along the rows. */
export function measuredArray(encoding, [nRows, nColumns], where) {
  let rows = measuredReadout(encoding, half(nRows), where);
  if (rows.samples !== nRows) rows = { ...rows, samples: nRows };
  const lines = encoding.encoded.size[1], extent = encoding.encoded.extent[1], wanted = encoding.recon.extent[1];
  if (nColumns !== lines && isNear(nColumns / lines, wanted / extent)) {
    const remark =
      `k-space has ${nColumns} columns where encodedSpace has ${lines}: its phase oversampling is taken as removed`;
    return [rows, { samples: nColumns, extent: wanted, remark }];
  }
  if (nColumns > lines) {
    throw new InputError(
      `${where}: k-space has ${nColumns} columns where encodedSpace has ${lines} over ${extent} mm and reconSpace ` +
        `${encoding.recon.size[1]} over ${wanted} mm: whether they are padded or oversampled is not said; repair the ` +
        "header or remove it",
    );
  }
  return [rows, { samples: nColumns, extent }];
}

/** Return { measured, shape, imageShape, remarks } of an image by what was measured and what reconSpace asks for. */
export function imageGrid(rows, columns, recon, where) {
  const axes = [rows, columns];
  const fits = axes.map((axis, i) => fit(axis, recon.size[i], recon.extent[i], i === 0, where));
  fits.forEach(({ grid }, i) => {
    if (grid > MAX_PADDING * axes[i].samples) {
      throw new InputError(
        `${where}: reconSpace asks for ${grid} samples along the ${i ? "phase encoding" : "readout"} where ` +
          `${axes[i].samples} are measured, expected at most ${MAX_PADDING} times as many; check the matrix sizes`,
      );
    }
  });
  return {
    measured: axes.map(({ samples }) => samples),
    shape: fits.map(({ grid }) => grid),
    imageShape: fits.map(({ pixels }) => pixels),
    remarks: [...axes, ...fits].map(({ remark }) => remark).filter(Boolean),
  };
}

function fit({ samples, extent }, pixels, wanted, isReadout, where) {
  const name = isReadout ? "readout" : "phase encoding";
  if (!(extent / wanted >= 1 / MAX_RATIO && extent / wanted <= MAX_RATIO)) {
    throw new InputError(
      `${where}: encodedSpace is ${extent / wanted} times as wide as reconSpace, expected at most ${MAX_RATIO} times; ` +
        "check the fields of view",
    );
  }
  let remark;
  if (wanted > extent * (1 + PIXEL_TOLERANCE / pixels)) {
    const covered = Math.max(rounded((pixels * extent) / wanted), 1);
    remark =
      `reconSpace is ${wanted} mm wide along the ${name}, more than the ${extent} mm encoded: the image ends there, ` +
      `${covered} of ${pixels} pixels`;
    [pixels, wanted] = [covered, extent];
  }
  const native = (samples * wanted) / extent;
  if (Math.abs(native - pixels) <= PIXEL_TOLERANCE) return { grid: Math.max(samples, pixels), pixels, remark };
  if (native < pixels) return { grid: Math.max(rounded((pixels * extent) / wanted), pixels), pixels, remark };
  if (isReadout && samples % pixels === 0 && isNear(extent, wanted)) {
    const factor = samples / pixels;
    remark =
      `${samples} samples over ${extent} mm where the image has ${pixels}: taken as ${factor} times oversampled, over ` +
      `${factor * extent} mm`;
    return { grid: samples, pixels, remark };
  }
  const kept = rounded(native);
  remark =
    `reconSpace has ${pixels} pixels over ${wanted} mm along the ${name}, coarser than what was measured, which is ` +
    `kept: ${kept} pixels`;
  return { grid: Math.max(samples, kept), pixels: kept, remark };
}

// Halves go to the even number, as Python rounds.
function rounded(x) {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 === 0 ? low : low + 1;
}
