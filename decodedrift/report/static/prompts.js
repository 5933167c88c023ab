"use strict";
// All prompts at once: a row for each answer, a square for each of its words; a click or Enter opens it.
(() => {
  const { all, element, press, inflate } = window.decodedrift;
  const map = document.getElementById("map");
  if (!map) return;
  const STEP = 200; // rows that are drawn at a time
  const [SMALLEST, LARGEST] = [4, 14]; // pixels of a square
  const part = Object.fromEntries(["candidates", "strategies", "order", "said", "rows", "more"].map((n) => [n, document.getElementById(`map-${n}`)]));
  const [readable, aligned] = [map.dataset.readable === "1", map.dataset.aligned === "1"];
  let data, traces;
  let drawn = STEP;
  const chosen = { candidate: "", strategy: "" };
  const names = (place) => [...new Set(data.cells.map((cell) => cell[place]))];

  function buttons(box, place, key) {
    const made = names(place).map((name) => {
      const button = element("button", undefined, { type: "button", "aria-pressed": "false" });
      button.append(element("bdi", name));
      button.addEventListener("click", () => choose(key, name));
      return [name, button];
    });
    box.hidden = made.length < 2;
    box.replaceChildren(...made.map(([, button]) => button));
    return new Map(made);
  }

  function choose(key, name) {
    chosen[key] = name;
    drawn = STEP;
    for (const [which, held] of Object.entries(switches)) press([...held.values()], held.get(chosen[which]));
    draw();
  }

  const named = ([prompt, seed], seeds) => data.prompts[prompt] + (seeds ? ` · seed ${seed}` : "");
  const runs = (flat) => flat.reduce((found, n, i) => (i % 2 ? [...found.slice(0, -1), [found.at(-1)[0], n]] : [...found, [n]]), []);

  // [class, squares] from left to right
  function pieces(length, at, again) {
    if (at < 0) return [["same", length]];
    const found = [["same", at]];
    if (at < length) found.push(["at", 1]);
    let next = at + 1;
    for (const [start, count] of again) {
      found.push(["apart", start - next], ["again", count]);
      next = start + count;
    }
    return [...found, ["apart", length - next]].filter(([, count]) => count > 0);
  }

  function told(length, at, again) {
    if (at < 0) return `the same in all ${length} words`;
    const meets = again.length ? `, meets it again at word ${again[0][0] + 1}` : "";
    return `leaves the reference at word ${at + 1} of ${length}${meets}`;
  }

  const place = ([prompt, seed]) => `#${new URLSearchParams({ candidate: chosen.candidate, strategy: chosen.strategy, seed, prompt: data.ids[prompt] })}`;

  function row(trace, seeds) {
    const [prompt, , length, at, open, ...flat] = trace;
    const again = runs(flat);
    const line = element("li");
    const link = readable && open ? element("a", undefined, { href: place(trace) }) : element("span", undefined, { class: "closed" });
    link.tabIndex = -1;
    link.append(element("bdi", named(trace, seeds), { class: "label" }));
    const strip = element("span", undefined, { class: "strip", "aria-hidden": "true" });
    for (const [kind, count] of pieces(length, at, again)) {
      const run = element("span", undefined, { class: kind });
      run.style.setProperty("--n", count);
      strip.append(run);
    }
    link.append(strip, element("span", `: ${told(length, at, again)}${readable && !open ? "; not carried in this page" : ""}`, { class: "unseen" }));
    if (data.texts[prompt]) link.title = data.texts[prompt];
    line.append(link);
    return line;
  }

  function fit() {
    const longest = Math.max(1, ...traces.map(([, , length]) => length));
    const label = part.rows.querySelector(".label")?.offsetWidth ?? 0;
    const room = part.rows.clientWidth - label - 12;
    map.style.setProperty("--cell", `${Math.max(SMALLEST, Math.min(LARGEST, Math.floor(room / longest)))}px`);
  }

  function draw() {
    traces = data.cells.find(([candidate, strategy]) => candidate === chosen.candidate && strategy === chosen.strategy)?.[2] ?? [];
    const end = ([, , length, at]) => (at < 0 ? length + 1e6 : at);
    if (part.order.value === "at") traces = [...traces].sort((a, b) => end(a) - end(b)); // those that part are drawn first
    const seeds = new Set(traces.map(([, seed]) => seed)).size > 1;
    part.rows.replaceChildren(...traces.slice(0, drawn).map((trace) => row(trace, seeds)));
    part.more.hidden = traces.length <= drawn;
    part.more.textContent = `${traces.length - drawn} more rows`;
    const parted = traces.filter(([, , , at]) => at >= 0);
    const again = parted.filter((trace) => trace.length > 5).length;
    const meet = aligned ? `; ${again} meet the reference again` : ""; // without tokens nobody knows
    const first = parted.length ? `, the first at word ${1 + Math.min(...parted.map(([, , , at]) => at))}${meet}` : "";
    part.said.replaceChildren(element("bdi", chosen.candidate), ", ", element("bdi", chosen.strategy), `: ${parted.length} of ${traces.length} answers leave the reference${first}.`);
    const start = part.rows.querySelector("a, .closed");
    if (start) start.tabIndex = 0;
    fit();
    mark();
  }

  // the row of the opened case, whose candidate and strategy the map shows

  let opened = null;
  let asked = null;
  function follow() {
    const [candidate, strategy] = asked ?? data.cells[0];
    if (chosen.candidate !== candidate || chosen.strategy !== strategy) {
      chosen.strategy = strategy;
      choose("candidate", candidate);
    }
    const at = traces.findIndex((trace) => place(trace) === opened);
    if (at >= drawn) drawn = STEP * Math.ceil((at + 1) / STEP);
    if (at >= part.rows.children.length) draw();
    else mark();
    bring();
  }
  function mark() {
    for (const link of all("a", part.rows)) {
      if (link.hash === opened) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  }
  function bring() {
    const line = part.rows.querySelector("[aria-current]");
    if (!line) return;
    const [at, seen] = [line.getBoundingClientRect(), part.rows.getBoundingClientRect()];
    if (at.top < seen.top || at.bottom > seen.bottom) part.rows.scrollTop += at.top - seen.top - part.rows.clientHeight / 2;
  }
  document.addEventListener("case", ({ detail }) => {
    const { candidate, strategy, seed, id } = detail;
    opened = `#${new URLSearchParams({ candidate, strategy, seed, prompt: id })}`;
    asked = [candidate, strategy];
    if (data) follow();
  });

  // one row is reached by Tab, the others by the arrows

  part.rows.addEventListener("keydown", (event) => {
    const links = all("a, .closed", part.rows);
    const at = links.indexOf(event.target.closest("a, .closed"));
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: links.length - 1 }[event.key];
    if (at < 0 || to === undefined || !links[to]) return;
    event.preventDefault();
    links[at].tabIndex = -1;
    links[to].tabIndex = 0;
    links[to].focus();
  });
  part.order.addEventListener("change", draw);
  part.more.addEventListener("click", () => {
    drawn += STEP;
    draw();
  });

  let switches = {};
  async function start() {
    data = await inflate(document.getElementById("map-data").textContent.trim());
    if (!data.cells.length) return;
    switches = { candidate: buttons(part.candidates, 0, "candidate"), strategy: buttons(part.strategies, 1, "strategy") };
    follow();
    new ResizeObserver(fit).observe(part.rows);
    map.dataset.drawn = "yes";
  }
  addEventListener("DOMContentLoaded", start);
})();
