// The noise of a run, the same numbers as src/sbim_deploy/samplers/noise.py draws with NumPy: Philox 4x64-10
// (Salmon et al. 2011, doi 10.1145/2063384.2063405), keyed through SeedSequence (O'Neill 2015, "seed_seq"), and
// normals by the ziggurat in single precision (Marsaglia and Tsang 2000, doi 10.18637/jss.v005.i08).

const fround = Math.fround;

/** Return the key, eight 32-bit words as four, of numpy.random.SeedSequence(seed, spawn_key=(slice, sample)). */
function seedWords(seed, spawnKey) {
  const words = [];
  for (let rest = seed; rest > 0 || words.length === 0; rest = Math.floor(rest / 2 ** 32)) words.push(rest >>> 0);
  while (words.length < 4) words.push(0);
  const entropy = [...words, ...spawnKey.map((each) => each >>> 0)];
  let hash = 0x43b0d7e5;
  const mixed = (value) => {
    value = (value ^ hash) >>> 0;
    hash = Math.imul(hash, 0x931e8875) >>> 0;
    value = Math.imul(value, hash) >>> 0;
    return (value ^ (value >>> 16)) >>> 0;
  };
  const mix = (x, y) => {
    const result = (Math.imul(x, 0xca01f9dd) - Math.imul(y, 0x4973f715)) >>> 0;
    return (result ^ (result >>> 16)) >>> 0;
  };
  const pool = entropy.slice(0, 4).map(mixed);
  for (let from = 0; from < 4; from++) {
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mix(pool[to], mixed(pool[from]));
  }
  for (const word of entropy.slice(4)) for (let to = 0; to < 4; to++) pool[to] = mix(pool[to], mixed(word));
  hash = 0x8b51f9dd;
  return pool.map((each) => {
    let value = (each ^ hash) >>> 0;
    hash = Math.imul(hash, 0x58f38ded) >>> 0;
    value = Math.imul(value, hash) >>> 0;
    return (value ^ (value >>> 16)) >>> 0;
  });
}

// The high word of the product of two 32-bit words.
function high(a, b) {
  const al = a & 0xffff, ah = a >>> 16, bl = b & 0xffff, bh = b >>> 16;
  const low = Math.imul(al, bl) >>> 0;
  // A product of two 16-bit words and a third word stays below 2^32.
  const middle = (Math.imul(ah, bl) + (low >>> 16)) >>> 0;
  const other = (Math.imul(al, bh) + (middle & 0xffff)) >>> 0;
  return (Math.imul(ah, bh) + (middle >>> 16) + (other >>> 16)) >>> 0;
}

// The 128 bits of the product of two numbers of 64, as four words into out, lowest first.
function multiply(aLow, aHigh, bLow, bHigh, out) {
  out[0] = Math.imul(aLow, bLow);
  const first = high(aLow, bLow) + (Math.imul(aHigh, bLow) >>> 0);
  const second = (first >>> 0) + (Math.imul(aLow, bHigh) >>> 0);
  out[1] = second;
  const third = high(aHigh, bLow) + high(aLow, bHigh) + (Math.imul(aHigh, bHigh) >>> 0);
  const carried = third + (first >= 2 ** 32 ? 1 : 0) + (second >= 2 ** 32 ? 1 : 0);
  out[2] = carried;
  out[3] = high(aHigh, bHigh) + Math.floor(carried / 2 ** 32);
}

/** Return a function that gives the next 32 random bits of Philox with this key. */
function philox(key) {
  const counter = new Uint32Array(8), x = new Uint32Array(8), k = new Uint32Array(4);
  const p = new Uint32Array(4), q = new Uint32Array(4);
  let place = 8;
  return () => {
    if (place === 8) {
      for (let i = 0; i < 8; i++) {
        counter[i]++; // to 0, where it carries
        if (counter[i] !== 0) break;
      }
      x.set(counter);
      k.set(key);
      for (let round = 0; round < 10; round++) {
        if (round) {
          addWide(k, 0, 0x7f4a7c15, 0x9e3779b9);
          addWide(k, 2, 0x84caa73b, 0xbb67ae85);
        }
        multiply(0xe14c6c93, 0xd2e7470e, x[0], x[1], p);
        multiply(0x95121157, 0xca5a8263, x[4], x[5], q);
        const a = x[2], b = x[3], c = x[6], d = x[7];
        x[0] = q[2] ^ a ^ k[0];
        x[1] = q[3] ^ b ^ k[1];
        x[2] = q[0];
        x[3] = q[1];
        x[4] = p[2] ^ c ^ k[2];
        x[5] = p[3] ^ d ^ k[3];
        x[6] = p[0];
        x[7] = p[1];
      }
      place = 0;
    }
    return x[place++];
  };
}

function addWide(words, at, low, highWord) {
  const sum = words[at] + low;
  words[at] = sum;
  words[at + 1] = words[at + 1] + highWord + (sum >= 2 ** 32 ? 1 : 0);
}

const LAYERS = 256, EDGE = 3.6541528853610088, AREA = 0.00492867323399;
const density = (x) => Math.exp(-0.5 * x * x);

// The ziggurat of 256 layers of equal area: widths, the integers that lie within the next one, and heights.
const ziggurat = (() => {
  const widths = new Float32Array(LAYERS), within = new Uint32Array(LAYERS), heights = new Float32Array(LAYERS);
  const bits = 2 ** 23;
  let x = EDGE, above = EDGE;
  const base = AREA / density(EDGE);
  within[0] = Math.round((EDGE / base) * bits);
  within[1] = 0;
  widths[0] = base / bits;
  widths[LAYERS - 1] = EDGE / bits;
  heights[0] = 1;
  heights[LAYERS - 1] = density(EDGE);
  for (let i = LAYERS - 2; i >= 1; i--) {
    x = Math.sqrt(-2 * Math.log(AREA / above + density(above)));
    within[i + 1] = Math.round((x / above) * bits);
    above = x;
    heights[i] = density(x);
    widths[i] = x / bits;
  }
  return { widths, within, heights };
})();

/** Return what fills an array of float32 with the next normals of a sample of a slice. */
export function noiseStream(seed, slice, sample = 0) {
  const next = philox(Uint32Array.from(seedWords(seed, [slice, sample])));
  const { widths, within, heights } = ziggurat;
  const unit = () => fround((next() >>> 8) / 2 ** 24);
  const normal = () => {
    for (;;) {
      const bits = next();
      const layer = bits & 0xff, negative = (bits >>> 8) & 1, steps = (bits >>> 9) & 0x7fffff;
      const x = fround(steps * widths[layer]);
      if (steps < within[layer]) return negative ? -x : x;
      if (layer === 0) {
        for (;;) {
          const beyond = fround(-fround(1 / EDGE) * fround(Math.log1p(-unit())));
          const y = fround(-Math.log1p(-unit()));
          if (fround(y + y) > fround(beyond * beyond)) {
            const tail = fround(fround(EDGE) + beyond);
            return (steps >>> 8) & 1 ? -tail : tail;
          }
        }
      }
      const height = fround(fround(heights[layer - 1] - heights[layer]) * unit() + heights[layer]);
      if (height < Math.exp(-0.5 * x * x)) return negative ? -x : x;
    }
  };
  return (out) => {
    for (let i = 0; i < out.length; i++) out[i] = normal();
    return out;
  };
}

export { ziggurat };
