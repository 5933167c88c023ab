"use strict";
// The token view: both texts of a case token by token, and what else each side would have said.
(() => {
  const { all, element, press, neighbour, choose } = window.decodedrift;
  const lines = document.getElementById("tokens").textContent.trim().split("\n");
  const view = document.getElementById("view");
  if (!lines[0] || !view) return;
  const BEFORE = 300;
  const AFTER = 600;
  const MARGINS = [2, 1, 0.3, 0.1, 0.03, 0.01];
  const KLS = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1];
  const part = Object.fromEntries(
    ["title", "prompt", "reference", "candidate", "left", "right", "key", "before", "next", "mark"].map((n) => [n, document.getElementById(`view-${n}`)]),
  );
  const inspector = document.getElementById("inspector");
  const sides = { left: part.left, right: part.right };
  let data, now, shown;
  let colour = "margin";

  // the first line is what all cases share; of the others only those of the cases that are opened are unpacked

  const unpacked = new Map();
  function unpack(line) {
    if (!unpacked.has(line)) unpacked.set(line, inflate(lines[line]));
    return unpacked.get(line);
  }

  async function inflate(packed) {
    const text = atob(packed);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).json();
  }

  // position -> its alternatives; what the values are differences from, tokenview.py says
  const SAME = -2;
  function alternatives(flat, reference) {
    const found = new Map();
    let next = 0;
    flat.at.forEach((position, n) => {
      const steps = flat.bits.slice(n * data.width, (n + 1) * data.width);
      const same = flat.token[next] === SAME && reference.get(position);
      const tokens = same ? same.map(({ token }) => token) : flat.token.slice(next, next + data.width);
      next += same ? 1 : data.width;
      let before = 0;
      const entries = steps.map((step, k) => {
        before = step + (same ? same[k].bits : before);
        return { token: tokens[k], bits: before, p: before < 0 ? 0 : share(before) };
      });
      found.set(position, entries);
    });
    return found;
  }

  // numbers

  const raised = (power) => String(power).replace(/./g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);
  function round(value) {
    if (value == null) return "n/a";
    if (value === -1) return "∞";
    if (value !== 0 && Math.abs(value) < 1e-3) {
      const [mantissa, power] = value.toExponential(2).split("e");
      return `${mantissa.replace("-", "−")}×10${raised(Number(power))}`;
    }
    return Number(value.toPrecision(3)).toString().replace("-", "−");
  }
  const share = (bits) => Math.exp(-bits / 1e4);
  const percent = (p) => (p >= 0.9995 && p < 1 ? ">99.9 %" : p < 0.0005 ? "<0.1 %" : `${(100 * p).toFixed(1)} %`);

  const tops = (held, position) => held.get(position)?.filter(({ token }) => token >= 0);

  function ownMargin(position) {
    const found = tops(now.own, position);
    return found?.length > 1 && found[1].bits >= 0 ? (found[1].bits - found[0].bits) / 1e4 : null;
  }

  const parted = (side, i) => side === "right" && now.at !== null && i > now.at;

  function values(side, i) {
    if (parted(side, i)) return { margin: ownMargin(i), kl: null };
    return { margin: (side === "left" ? now.margin : now.margin_candidate)?.[i], kl: now.kl?.[i] };
  }

  function level(side, i) {
    const value = values(side, i)[colour];
    if (value == null) return 0;
    if (colour === "margin") return MARGINS.filter((m) => value < m).length;
    return value === -1 ? 6 : KLS.filter((k) => value >= k).length;
  }

  // tokens

  function signs(text, broken = true) {
    const made = document.createDocumentFragment();
    for (const piece of text.split(/(\n|\t)/)) {
      if (piece === "\n" || piece === "\t") made.append(element("span", piece === "\n" ? "⏎" : "→", { class: "sign" }));
      if (broken || (piece !== "\n" && piece !== "\t")) made.append(piece);
    }
    return made;
  }

  const octets = (index) => data.bytes[index];
  const odd = (index) => octets(index) !== undefined && data.texts[index].includes("\ufffd");
  const name = (index) => (odd(index) ? `⟨${octets(index)}⟩` : data.texts[index] === "" ? "∅" : data.texts[index]);

  function token(side, i, index) {
    const made = element("span", undefined, { class: "tok", tabindex: "-1", role: "option", "data-i": i });
    const text = name(index);
    made.append(signs(text.length > 90 ? `${text.slice(0, 90)}…` : text));
    if (odd(index) || data.texts[index] === "") made.classList.add("odd");
    if (now.at !== null && i < now.at) made.classList.add("before");
    if (i === now.at) made.classList.add("at");
    if (partner(side, i) !== null && parted("right", i)) made.classList.add("meet");
    return made;
  }

  function partner(side, i) {
    if (now.at === null || i <= now.at) return i;
    for (const [ours, theirs, length] of now.meet) {
      const [from, to] = side === "left" ? [ours, theirs] : [theirs, ours];
      if (i >= from && i < from + length) return to + i - from;
    }
    return null;
  }

  function fold(text, wider) {
    const made = element("button", text, { type: "button", class: "fold" });
    made.addEventListener("click", wider);
    return made;
  }

  function fillSide(side, ids, more) {
    const box = sides[side];
    const [from, to] = [Math.min(shown.from, ids.length), Math.min(shown.to, ids.length)];
    const made = document.createDocumentFragment();
    if (from > 0) made.append(fold(`${from} earlier tokens`, () => refill({ from: 0, to: shown.to })), " ");
    for (let i = from; i < to; i++) made.append(token(side, i, ids[i]));
    if (to < ids.length) made.append(" ", fold(`${ids.length - to} more tokens`, () => refill({ from: shown.from, to: Infinity })));
    if (more) made.append(element("span", ` … ${more} more tokens are in traces.csv`, { class: "note" }));
    if (!ids.length) made.append(element("span", "no token", { class: "note" }));
    box.replaceChildren(made);
    const start = box.querySelector(".at") ?? box.querySelector(".tok");
    if (start) start.tabIndex = 0;
  }

  function recolour() {
    for (const side of ["left", "right"]) {
      for (const node of all(".tok", sides[side])) {
        for (let l = 1; l <= 6; l++) node.classList.remove(`hot-${l}`);
        const found = level(side, Number(node.dataset.i));
        if (found) node.classList.add(`hot-${found}`);
      }
    }
    const scale = element("span", undefined, { class: "key-scale" });
    for (let l = 1; l <= 6; l++) scale.append(element("span", undefined, { class: `hot-${l}` }));
    const said = colour === "margin"
      ? ["Margin (top-1 minus top-2, nats) below 2", "below 0.01. Hot is where a small error decides."]
      : ["KL (nats) from 10⁻⁶", "to 0.1 and more, along the reference's tokens; the candidate's own way after the first divergence has none."];
    part.key.replaceChildren(said[0], scale, said[1], " Dimmed: equal. Underlined: the texts meet again. Arrow keys walk.");
  }

  function refill(range) {
    shown = range;
    fillSide("left", now.trace.ids, now.trace.more);
    fillSide("right", now.ids, now.more);
    recolour();
  }

  const ENDS = { eos: "ended by itself", length: "cut at the limit", nonfinite: "stopped at a non-finite logit" };

  let latest;
  async function show(index) {
    latest = index;
    const place = data.cases[index];
    const held = await unpack(1 + place.part);
    if (latest !== index) return; // another was asked for meanwhile
    const found = held.cases[place.case];
    const read = alternatives(held.trace.tops);
    now = { ...place, ...found, trace: held.trace, tops: read, beside: alternatives(found.beside, read), own: alternatives(found.own) };
    const prompt = data.prompts.find((p) => p.id === now.prompt) ?? { text: "", cut: 0 };
    const at = now.at === null ? "stayed equal" : `t* = ${now.at}, ${now.cause.replaceAll("_", " ")}`;
    part.title.replaceChildren(element("bdi", now.prompt), " · ", element("bdi", now.strategy), now.seed ? ` · seed ${now.seed}` : "", " · ", element("bdi", now.candidate), ` · ${at}`);
    part.prompt.textContent = (prompt.cut ? `… ` : "") + prompt.text;
    heading(part.reference, data.reference, "reference", now.trace.finish);
    heading(part.candidate, now.candidate, "candidate", now.finish);
    part.mark.hidden = now.at === null;
    view.hidden = false;
    refill({ from: Math.max(0, (now.at ?? 0) - BEFORE), to: (now.at ?? 0) + AFTER });
    choose(index);
    inspect("left", now.at ?? 0);
    bring();
  }

  function heading(node, variant, role, finish) {
    node.replaceChildren(element("bdi", variant), " ", element("small", [role, ENDS[finish]].filter(Boolean).join(", ")));
  }

  function bring() {
    for (const box of Object.values(sides)) {
      const mark = box.querySelector(".at");
      if (mark) box.scrollTop = Math.max(0, mark.offsetTop - box.offsetTop - box.clientHeight / 3);
    }
  }

  // what else was near

  function list(caption, found, taken) {
    const table = element("table");
    table.append(element("caption", caption));
    for (const { token: index, p } of found ?? []) {
      const row = table.insertRow();
      row.classList.toggle("taken", index === taken);
      const cell = row.insertCell();
      cell.title = `id ${data.ids[index]}`;
      cell.append(element("bdi", undefined, { class: "token" }));
      cell.firstChild.append(signs(name(index).slice(0, 40).replaceAll(" ", "␣"), false));
      row.insertCell().textContent = percent(p);
      const bar = element("span", undefined, { class: "bar" });
      bar.style.width = `${Math.max(0.5, 100 * p)}%`;
      row.insertCell().append(bar);
    }
    if (!found) table.insertRow().append(element("td", "not kept here", { class: "note" }));
    return table;
  }

  function inspect(side, i) {
    const { trace } = now;
    const ids = side === "left" ? trace.ids : now.ids;
    const index = ids[i];
    for (const node of all(".pair", view)) node.classList.remove("pair");
    const other = partner(side, i);
    if (other !== null) sides[side === "left" ? "right" : "left"].querySelector(`[data-i="${other}"]`)?.classList.add("pair");
    const own = parted(side, i);
    const { kl } = values(side, i);
    const what = element("p", undefined, { class: "what" });
    const say = (label, value) => {
      const node = element("span", `${label} `);
      node.append(element("b", value));
      what.append(node);
    };
    say("position", String(i));
    if (index !== undefined) {
      const shownToken = element("span", "token ");
      shownToken.append(element("bdi", undefined, { class: "token" }));
      shownToken.lastChild.append(signs(name(index).replaceAll(" ", "␣"), false));
      what.append(shownToken);
      say("id", String(data.ids[index]));
      if (octets(index) !== undefined) say("bytes", octets(index));
    }
    if (own) say("margin", round(ownMargin(i)));
    else {
      say("KL", round(kl));
      say("margin", `${round(now.margin?.[i])} → ${round(now.margin_candidate?.[i])}`);
    }
    const tables = element("div", undefined, { class: "tops" });
    if (own) {
      tables.append(list(now.candidate, tops(now.own, i), index), element("p", "The reference has not read this text: after the first divergence each side is in a context of its own.", { class: "aside" }));
    } else {
      const theirs = now.at === null || i <= now.at ? now.ids[i] : undefined;
      const reading = now.at !== null && i > now.at ? ", reading the reference's text" : "";
      tables.append(list(data.reference, tops(now.tops, i), trace.ids[i]), list(now.candidate + reading, tops(now.beside, i), theirs));
    }
    inspector.replaceChildren(what, tables);
  }

  // hands

  for (const [side, box] of Object.entries(sides)) {
    const seen = (event) => {
      const node = event.target.closest(".tok");
      if (node) inspect(side, Number(node.dataset.i));
    };
    box.addEventListener("mouseover", seen);
    box.addEventListener("focusin", seen);
    box.addEventListener("click", (event) => event.target.closest(".tok")?.focus({ preventScroll: true }));
    box.addEventListener("keydown", (event) => {
      const node = event.target.closest(".tok");
      if (!node) return;
      const i = Number(node.dataset.i);
      const across = sides[side === "left" ? "right" : "left"];
      const to = {
        ArrowLeft: () => box.querySelector(`[data-i="${i - 1}"]`),
        ArrowRight: () => box.querySelector(`[data-i="${i + 1}"]`),
        ArrowUp: () => across.querySelector(`[data-i="${partner(side, i) ?? i}"]`),
        ArrowDown: () => across.querySelector(`[data-i="${partner(side, i) ?? i}"]`),
        Home: () => box.querySelector(".at") ?? box.querySelector(".tok"),
      }[event.key]?.();
      if (!to) return;
      event.preventDefault();
      node.tabIndex = -1;
      to.tabIndex = 0;
      to.focus();
    });
  }
  const colours = all("[data-colour]", view);
  for (const button of colours) {
    button.addEventListener("click", () => {
      colour = button.dataset.colour;
      press(colours, button);
      recolour();
    });
  }
  const step = (by) => {
    const hash = neighbour(latest, by);
    if (hash) location.hash = hash;
  };
  part.before.addEventListener("click", () => step(-1));
  part.next.addEventListener("click", () => step(1));
  part.mark.addEventListener("click", () => {
    bring();
    sides.left.querySelector(".at")?.focus({ preventScroll: true });
  });

  // a case by its link

  function find(params) {
    const wanted = { prompt: params.get("prompt"), candidate: params.get("candidate"), strategy: params.get("strategy"), seed: params.get("seed") };
    return data.cases.findIndex((c) => Object.entries(wanted).every(([key, value]) => value === null || String(c[key]) === value));
  }

  async function follow(first) {
    data = await unpack(0);
    const params = new URLSearchParams(location.hash.slice(1));
    const asked = params.has("prompt");
    const index = asked ? find(params) : -1;
    if (index >= 0) {
      await show(index);
      view.scrollIntoView({ block: "start" });
    } else if (asked) {
      view.hidden = false;
      part.title.textContent = "This page does not hold that case; the tables beside it do.";
    } else if (first && data.cases.length) await show(0);
    document.documentElement.dataset.opened = "yes";
  }
  addEventListener("hashchange", () => follow(false));
  addEventListener("DOMContentLoaded", () => follow(true));
})();
