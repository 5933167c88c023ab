"use strict";
// The token view's data: a line of the island for each text of the reference, unpacked when a case of it is opened.
(() => {
  const SAME = -2; // in place of tokens: those of the reference there
  const lines = document.getElementById("tokens").textContent.trim().split("\n");
  const unpacked = new Map();

  async function inflate(packed) {
    const text = atob(packed);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  }

  function unpack(line) {
    if (!unpacked.has(line)) unpacked.set(line, inflate(lines[line]));
    return unpacked.get(line);
  }

  const share = (bits) => Math.exp(-bits / 1e4);

  // position -> its alternatives; what the values are differences from, tokenview.py says
  function alternatives(flat, width, reference) {
    const found = new Map();
    let next = 0;
    flat.at.forEach((position, n) => {
      const steps = flat.bits.slice(n * width, (n + 1) * width);
      const same = flat.token[next] === SAME && reference.get(position);
      const tokens = same ? same.map(({ token }) => token) : flat.token.slice(next, next + width);
      next += same ? 1 : width;
      let before = 0;
      const entries = steps.map((step, k) => {
        before = step + (same ? same[k].bits : before);
        return { token: tokens[k], bits: before, p: before < 0 ? 0 : share(before) };
      });
      found.set(position, entries);
    });
    return found;
  }

  // what all cases share
  const head = () => unpack(0);

  // a case: its place, what was written and measured, and the alternatives of both sides
  async function load(index) {
    const data = await head();
    const place = data.cases[index];
    const held = await unpack(1 + place.part);
    const found = held.cases[place.case];
    const tops = alternatives(held.trace.tops, data.width);
    const prompt = data.prompts.find((p) => p.id === place.prompt) ?? { text: "", cut: 0 };
    return {
      ...place, ...found, data, index, prompt, id: place.prompt, trace: held.trace, tops,
      beside: alternatives(found.beside, data.width, tops), own: alternatives(found.own, data.width),
    };
  }

  // tokens as text

  const octets = (data, token) => data.bytes[token];
  const odd = (data, token) => data.texts[token] === "" || (octets(data, token) !== undefined && data.texts[token].includes("\ufffd"));
  function name(data, token) {
    if (data.texts[token] === "") return "∅";
    return odd(data, token) ? `⟨${octets(data, token)}⟩` : data.texts[token];
  }

  const percent = (p) => (p >= 0.9995 && p < 1 ? ">99.9 %" : p < 0.0005 ? "<0.1 %" : `${(100 * p).toFixed(1)} %`);

  Object.assign(window.decodedrift, { island: lines[0] ? { head, load, inflate, name, odd, octets, percent } : null, inflate });
})();
