// What a person can act on: one sentence with what was got, what was expected, and the way out.
export class InputError extends Error {}
