"use strict";
// Here the texts part: what both wrote, and the two ways that it goes on.
(() => {
  const { element, island, neighbour } = window.decodedrift;
  const fork = document.getElementById("parting");
  if (!island || !fork) return;
  const AFTER = 420; // characters of each branch, and of what both have in common
  const before = () => (matchMedia("(max-width: 760px)").matches ? 110 : 240);
  const part = Object.fromEntries(["where", "trunk", "left", "right", "cause", "count"].map((n) => [n, document.getElementById(`fork-${n}`)]));
  let index;

  const text = (now, ids) => ids.map((token) => island.name(now.data, token)).join("");
  const flat = (words) => words.replace(/\s*\n\s*/g, " ⏎ ");

  // the last characters of a text, from the beginning of a word
  const tail = (words, room) => (words.length <= room ? words : words.slice(-room).replace(/^\S{0,20}(?=\s)/, ""));

  // the probability that a side gives a word at the fork; nothing where none were kept
  function chance(now, side, word) {
    const kept = (side === "left" ? now.tops : now.beside).get(now.at);
    if (kept?.every(({ bits }) => bits < 0)) return " no finite number";
    const entry = kept?.find(({ token }) => token === word);
    return entry ? ` ${island.percent(entry.p)}` : kept ? " not in its top five" : "";
  }

  function branch(now, side) {
    const ids = side === "left" ? now.trace.ids : now.ids;
    const word = ids[now.at];
    const broke = (side === "left" ? now.trace : now).finish === "nonfinite";
    const node = part[side];
    const said = element("p", undefined, { class: "said" });
    said.append(element("bdi", word === undefined ? (broke ? "(breaks here)" : "(ends here)") : flat(island.name(now.data, word)).trim().slice(0, 40) || "␣", { class: "mark" }));
    for (const [name, who] of [["left", now.data.reference], ["right", now.candidate]]) {
      const chose = element("span", undefined, { class: name === side ? "chose" : "" });
      chose.append(element("bdi", who), word === undefined ? "" : chance(now, name, word));
      said.append(chose);
    }
    const rest = text(now, ids.slice(now.at, now.at + 160));
    const told = element("p", undefined, { class: "model-text", dir: "auto" });
    const start = element("span", flat(word === undefined ? "" : island.name(now.data, word)), { class: "mark" });
    const after = flat(rest.slice(word === undefined ? 0 : island.name(now.data, word).length));
    told.append(start, after.slice(0, AFTER), after.length > AFTER || ids.length > now.at + 160 ? " …" : "");
    node.replaceChildren(said, told);
  }

  function draw(now) {
    index = now.index;
    fork.hidden = false;
    fork.classList.toggle("equal", now.at === null);
    const where = [element("bdi", now.id), element("bdi", now.strategy), ...(now.seed ? [`seed ${now.seed}`] : []), element("bdi", now.candidate)];
    part.where.replaceChildren(...where.flatMap((piece, i) => (i ? [" · ", piece] : [piece])));
    const end = now.at ?? now.trace.ids.length;
    const shared = flat(text(now, now.trace.ids.slice(Math.max(0, end - 160), end)));
    const own = tail(shared, before());
    const lead = own.length < before() ? tail(flat(now.prompt.text), before() - own.length) : "";
    const cut = own.length < shared.length || lead.length < now.prompt.text.length;
    part.trunk.replaceChildren(element("span", (cut ? "… " : "") + lead, { class: "asked" }), element("span", own, { class: "both" }));
    if (now.at !== null) {
      branch(now, "left");
      branch(now, "right");
    }
    part.cause.textContent = now.at === null ? "Both answers are the same to the end." : ` ${now.at + 1}. ${fork.dataset[`why${now.cause.replaceAll("_", "")}`] ?? ""}`;
    const cases = decodedrift.apart();
    part.count.textContent = cases.includes(index) ? `${cases.indexOf(index) + 1} of ${cases.length}` : "";
  }

  const step = (by) => {
    const next = neighbour(index, by, true);
    if (!next) return;
    history.replaceState(null, "", next.hash);
    decodedrift.open(next.index);
  };
  document.getElementById("fork-before").addEventListener("click", () => step(-1));
  document.getElementById("fork-next").addEventListener("click", () => step(1));
  document.getElementById("fork-read").addEventListener("click", () => {
    const view = document.getElementById("view");
    view.scrollIntoView({ block: "start" });
    view.querySelector(".tok[tabindex='0']")?.focus({ preventScroll: true });
  });
  document.addEventListener("case", ({ detail }) => draw(detail));
})();
