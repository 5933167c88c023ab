"use strict";
// The token view: both texts of a case token by token, and what else each side would have said.
(() => {
  const { all, element, press, neighbour, choose, island } = window.decodedrift;
  const view = document.getElementById("view");
  if (!island || !view) return;
  const { octets, odd, percent } = island;
  const BEFORE = 300;
  const AFTER = 600;
  const MARGINS = [2, 1, 0.3, 0.1, 0.03, 0.01];
  const KLS = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1];
  const part = Object.fromEntries(
    ["title", "prompt", "reference", "candidate", "left", "right", "key", "before", "next", "mark"].map((n) => [n, document.getElementById(`view-${n}`)]),
  );
  const inspector = document.getElementById("inspector");
  const sides = { left: part.left, right: part.right };
  let data, now, shown, place;
  let colour = "margin";
  const name = (index) => island.name(data, index);

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
  function tops(held, position) {
    const found = held.get(position)?.filter(({ token }) => token >= 0);
    return found?.every(({ bits }) => bits < 0) ? [] : found; // NaN has no best
  }

  // best less next of what is listed: of the pass that the list is of
  function listed(held, position) {
    const found = tops(held, position);
    return found?.length > 1 && found[1].bits >= 0 ? (found[1].bits - found[0].bits) / 1e4 : null;
  }
  const ownMargin = (position) => listed(now.own, position);
  // lists are kept to 0.0001
  const told = (held, position, forced) => listed(held, position)?.toFixed(4) ?? round(forced?.[position]);

  const parted = (side, i) => side === "right" && now.at !== null && i > now.at;

  function values(side, i) {
    if (parted(side, i)) return { margin: ownMargin(i), kl: null };
    return { margin: (side === "left" ? now.margin : now.margin_candidate)?.[i], kl: now.kl?.[i] };
  }

  function level(side, i) {
    const value = values(side, i)[now.kl ? colour : "margin"];
    if (value == null) return 0;
    if (colour === "margin" || !now.kl) return MARGINS.filter((m) => value < m).length;
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

  function token(side, i, index) {
    const made = element("span", undefined, { class: "tok", tabindex: "-1", "data-i": i });
    const text = name(index);
    made.append(signs(text.length > 90 ? `${text.slice(0, 90)}…` : text));
    if (odd(data, index)) made.classList.add("odd");
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
    const said = colour === "margin" || !now.kl
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
    const found = await island.load(index);
    if (latest !== index) return; // another was asked for meanwhile
    now = found;
    data = now.data;
    const at = now.at === null ? "the same to the end" : `part at word ${now.at + 1}, ${now.cause.replaceAll("_", " ")}`;
    part.title.replaceChildren(element("bdi", now.id), " · ", element("bdi", now.strategy), now.seed ? ` · seed ${now.seed}` : "", " · ", element("bdi", now.candidate), ` · ${at}`);
    part.prompt.textContent = (now.prompt.cut ? `… ` : "") + now.prompt.text;
    heading(part.reference, data.reference, "reference", now.trace.finish);
    heading(part.candidate, now.candidate, "candidate", now.finish);
    part.mark.hidden = now.at === null;
    colours[0].parentElement.hidden = !now.kl; // a candidate that wrote elsewhere has read nothing
    view.hidden = false;
    refill({ from: Math.max(0, (now.at ?? 0) - BEFORE), to: (now.at ?? 0) + AFTER });
    choose(index);
    inspect("left", now.at ?? 0);
    bring();
    document.dispatchEvent(new CustomEvent("case", { detail: now }));
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
    if (!found?.length) table.insertRow().append(element("td", found ? "no finite number" : "not kept here", { class: "note" }));
    return table;
  }

  function inspect(side, i) {
    place = { side, i };
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
    say("word", String(i + 1));
    if (index !== undefined) {
      const shownToken = element("span", "token ");
      shownToken.append(element("bdi", undefined, { class: "token" }));
      shownToken.lastChild.append(signs(name(index).replaceAll(" ", "␣"), false));
      what.append(shownToken);
      say("id", String(data.ids[index]));
      if (octets(data, index) !== undefined) say("bytes", octets(data, index));
    }
    if (own) say("margin", told(now.own, i));
    else {
      if (now.kl) say("KL", round(kl));
      say("margin", `${told(now.tops, i, now.margin)} → ${told(now.beside, i, now.margin_candidate)}`);
    }
    const tables = element("div", undefined, { class: "tops" });
    if (own) {
      tables.append(list(now.candidate, tops(now.own, i), index), element("p", "After the first divergence each side is in a context of its own.", { class: "aside" }));
    } else {
      const theirs = now.at === null || i <= now.at ? now.ids[i] : undefined;
      const reading = now.at !== null && i > now.at ? ", reading the reference's text" : "";
      tables.append(list(data.reference, tops(now.tops, i), trace.ids[i]));
      if (now.kl || !reading) tables.append(list(now.candidate + reading, tops(now.beside, i), theirs));
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
    box.addEventListener("click", (event) => {
      const node = event.target.closest(".tok");
      if (node) focus(node);
    });
  }

  // arrows walk from the word that is explained, wherever the focus is in the view, or nowhere
  document.addEventListener("keydown", (event) => {
    const free = event.target === document.body || (view.contains(event.target) && !event.target.closest("button"));
    if (!now || !free || event.altKey || event.ctrlKey || event.metaKey) return;
    const here = event.target.closest(".tok");
    const { side, i } = here ? { side: sides.left.contains(here) ? "left" : "right", i: Number(here.dataset.i) } : place;
    const box = sides[side];
    const across = sides[side === "left" ? "right" : "left"];
    const other = () => across.querySelector(`[data-i="${partner(side, i) ?? i}"]`);
    // up and down scroll the page until a word has the focus
    const to = {
      ArrowLeft: () => box.querySelector(`[data-i="${i - 1}"]`),
      ArrowRight: () => box.querySelector(`[data-i="${i + 1}"]`),
      ArrowUp: here && other,
      ArrowDown: here && other,
      Home: here && (() => box.querySelector(".at") ?? box.querySelector(".tok")),
    }[event.key];
    const node = to && to();
    if (!node) return;
    event.preventDefault();
    focus(node);
  });

  function focus(node) {
    for (const other of all('.tok[tabindex="0"]', node.parentElement)) other.tabIndex = -1;
    node.tabIndex = 0;
    node.focus({ preventScroll: true });
    const box = node.parentElement;
    const [at, seen] = [node.getBoundingClientRect(), box.getBoundingClientRect()];
    if (at.top < seen.top || at.bottom > seen.bottom) box.scrollTop += at.top - seen.top - box.clientHeight / 3;
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
    const next = neighbour(latest, by);
    if (next) location.hash = next.hash;
  };
  part.before.addEventListener("click", () => step(-1));
  part.next.addEventListener("click", () => step(1));
  part.mark.addEventListener("click", () => {
    bring();
    const mark = sides.left.querySelector(".at");
    if (mark) focus(mark);
  });

  // a case by its link

  function find(params) {
    const wanted = { prompt: params.get("prompt"), candidate: params.get("candidate"), strategy: params.get("strategy"), seed: params.get("seed") };
    return data.cases.findIndex((c) => Object.entries(wanted).every(([key, value]) => value === null || String(c[key]) === value));
  }

  async function follow(first) {
    data = await island.head();
    const params = new URLSearchParams(location.hash.slice(1));
    const asked = params.has("prompt");
    const index = asked ? find(params) : -1;
    if (index >= 0) {
      await show(index);
      view.scrollIntoView({ block: "start" });
      const start = sides.left.querySelector(".at") ?? sides.left.querySelector(".tok");
      if (start) focus(start);
    } else if (data.cases.length && (first || asked)) {
      await show(latest ?? 0);
      if (asked) part.title.prepend("This page does not hold the case of the link; here is another: ");
    }
    document.documentElement.dataset.opened = "yes";
  }
  window.decodedrift.open = show;
  addEventListener("hashchange", () => follow(false));
  addEventListener("DOMContentLoaded", () => follow(true));
})();
