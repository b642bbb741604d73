// The header of MRD, read without a library: workers have no DOMParser.

import { InputError } from "../mri/errors.js";

/** Return the root of a text of XML: { name, text, children }. Names lose their prefix. */
export function parseXml(text, where) {
  const root = { name: "", text: "", children: [] };
  const open = [root];
  const tokens = /<!--[\s\S]*?-->|<\?[\s\S]*?\?>|<(\/?)([^\s/>]+)[^>]*?(\/?)>|([^<]+)/g;
  if (/<!DOCTYPE|<!ENTITY/i.test(text)) throw new InputError(`${where}: holds a DOCTYPE or an ENTITY, expected plain ISMRMRD XML`);
  for (const [, closes, name, isEmpty, content] of text.matchAll(tokens)) {
    if (content !== undefined) open.at(-1).text += content;
    if (name === undefined) continue;
    const local = name.replace(/^.*:/, "");
    if (closes) {
      if (open.pop().name !== local || !open.length) throw new InputError(`${where}: is not well-formed XML; repair it`);
      continue;
    }
    const element = { name: local, text: "", children: [] };
    open.at(-1).children.push(element);
    if (!isEmpty) open.push(element);
  }
  if (open.length !== 1 || !root.children.length) throw new InputError(`${where}: is not well-formed XML; repair it`);
  return root.children[0];
}

export function find(element, ...names) {
  return names.reduce((found, name) => found?.children.find((child) => child.name === name), element);
}

export const findAll = (element, name) => element.children.filter((child) => child.name === name);

export const textOf = (element, ...names) => find(element, ...names)?.text.trim() ?? null;

export function numberOf(element, where, ...names) {
  const text = textOf(element, ...names);
  if (text === null) return null;
  if (text === "" || !Number.isFinite(Number(text))) {
    throw new InputError(`${where}: <${names.join("/")}> is '${text.slice(0, 40)}', expected a number; repair it`);
  }
  return Number(text);
}
