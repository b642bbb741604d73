// Coils whose noise is uncorrelated and alike: the JavaScript of src/sbim_deploy/mri/whitening.py, and of what
// src/sbim_deploy/recon/prepare.py makes of it.

import { complex, median, norm } from "./arrays.js";
import { adjoint, diagonal, gram, inverseCholesky, mixCoils, part, product, scaledBy } from "./matrices.js";
import { divided, rootSumOfSquares } from "./sense.js";

const DEAD_VARIANCE = 1e-8, DEPENDENT_SHARE = 1e-5, UNLIKE_COILS = 2;

const range = (n) => Array.from({ length: n }, (_, i) => i);

/** Return { small, kept }: the (kept, kept) matrix that whitens, without dead and dependent coils. */
function whiteningWithoutDependent(covariance) {
  const variances = diagonal(covariance);
  if (!(Math.max(...variances) > 0)) return null;
  const typical = median(variances.filter((each) => each > 0));
  const alive = range(variances.length).filter((coil) => variances[coil] > DEAD_VARIANCE * typical);
  const inverse = alive.map((coil) => 1 / Math.sqrt(variances[coil]));
  const correlation = scaledBy(part(covariance, alive, alive), inverse, inverse);
  const chosen = independent(correlation).sort((i, j) => i - j);
  const small = scaledBy(
    inverseCholesky(part(correlation, chosen, chosen)),
    null,
    chosen.map((i) => Math.SQRT2 * inverse[i]),
  );
  return { small, kept: chosen.map((i) => alive[i]) };
}

// A matrix of some coils among zeros for the others, times a number.
function amongAll(small, kept, nCoils, factor) {
  const matrix = complex(nCoils, nCoils);
  kept.forEach((coil, i) =>
    kept.forEach((other, j) => {
      for (const k of [0, 1]) {
        matrix.data[2 * (coil * nCoils + other) + k] = factor * small.data[2 * (i * kept.length + j) + k];
      }
    }),
  );
  return matrix;
}

/** Return the (coil, coil) matrix after which noise of this covariance has unit variance in each part, or null. */
export function whiteningMatrix(covariance) {
  const found = whiteningWithoutDependent(covariance);
  return found && amongAll(found.small, found.kept, covariance.shape[0], 1);
}

/** Return { matrix, level, faults, kept } that make the coils' noise white and alike, or null where it is. */
export function whiteningOfUnlikeCoils({ covariance, coilSds }) {
  const nCoils = covariance.shape[0];
  const { small, kept } = whiteningWithoutDependent(covariance);
  const deviations = kept.map((coil) => coilSds[coil]);
  if (kept.length === nCoils && Math.max(...deviations) < UNLIKE_COILS * Math.min(...deviations)) return null;
  const level = Math.sqrt(kept.length) / norm(small);
  const leftOut = range(nCoils).filter((coil) => !kept.includes(coil));
  const faults = leftOut.length
    ? [`coil ${leftOut.join(", ")} of ${nCoils} measured nothing of its own and is left out`]
    : [];
  return { matrix: amongAll(small, kept, nCoils, level), level, faults, kept };
}

// The coils that a pivoted Cholesky factorisation takes before nothing is left to explain.
function independent(correlation) {
  const n = correlation.shape[0];
  const rest = { shape: correlation.shape, data: correlation.data.slice() };
  const kept = [];
  for (let round = 0; round < n; round++) {
    const unexplained = diagonal(rest);
    const pivot = unexplained.indexOf(Math.max(...unexplained));
    if (unexplained[pivot] <= DEPENDENT_SHARE) break;
    kept.push(pivot);
    const column = range(n).map((i) => [0, 1].map((k) => rest.data[2 * (i * n + pivot) + k]));
    const row = range(n).map((j) => [0, 1].map((k) => rest.data[2 * (pivot * n + j) + k]));
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) {
        const [ar, ai] = column[i], [br, bi] = row[j];
        rest.data[2 * (i * n + j)] -= (ar * br - ai * bi) / unexplained[pivot];
        rest.data[2 * (i * n + j) + 1] -= (ar * bi + ai * br) / unexplained[pivot];
      }
    }
  }
  return kept;
}

/** Return maps of mixed coils so scaled that the unmixed coils' have a root sum of squares of 1. */
export function shadedAsUnmixed(maps, { matrix, kept }) {
  // The pseudo-inverse of a matrix with full rows K beside zeros: K^H (K K^H)^-1.
  const n = matrix.shape[0];
  const rows = part(matrix, kept, range(n));
  const factor = inverseCholesky(gram(rows));
  const pseudoInverse = product(adjoint(rows), product(adjoint(factor), factor));
  const living = complex(kept.length, ...maps.shape.slice(1));
  const step = maps.data.length / n;
  kept.forEach((coil, i) => living.data.set(maps.data.subarray(coil * step, (coil + 1) * step), i * step));
  return divided(maps, rootSumOfSquares(mixCoils(pseudoInverse, living)));
}
