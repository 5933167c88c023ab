"use strict";
// Figures with their switches, legends, tables and downloads; what is drawn is what the sources hold.
window.decodedrift = (() => {
  const MOST_ROWS = 400;
  const held = JSON.parse(document.getElementById("figures").textContent);
  const drawn = new Map();
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const pick = (tag, key) => (tag instanceof Map ? tag.get(key) : tag[key]);
  const pairs = (tag) => (tag instanceof Map ? [...tag] : Object.entries(tag));
  const tagged = (model, key) => (model.tags ?? []).find((tag) => tag && pick(tag, key) !== undefined);

  // text in which nothing is hidden or acts, as `visible` in core/untrusted.py makes it; line breaks and tabs stay
  const visible = (text) => String(text).replace(/[^\P{C}\n\t]|[\u2028\u2029]/gu, (c) => `<U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}>`);

  // every text that a script puts on the page goes through here, as those of the templates go through `finalize`
  function element(name, text, attributes = {}) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = visible(text);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  function press(buttons, chosen) {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button === chosen));
  }

  // colours

  function paint(models, palette) {
    const style = getComputedStyle(document.documentElement);
    for (const model of models) {
      const tag = tagged(model, "paint");
      if (!tag) continue;
      const colours = {};
      for (const [name, colour] of pairs(pick(tag, "paint"))) {
        colours[name] = palette?.[colour] ?? style.getPropertyValue(`--${colour}`).trim();
      }
      model.setv(colours);
    }
  }

  const repaint = (palette) => drawn.forEach(({ models }) => paint(models, palette));

  // groups: a switch and a legend over one or more figures

  const groups = all(".group").map((node, index) => {
    const { choices, series } = held.groups[index];
    const group = { node, choices, series, choice: choices[0] ?? "", hidden: new Set() };
    const buttons = all("[data-choice]", node);
    for (const button of buttons) {
      button.addEventListener("click", () => {
        group.choice = choices[Number(button.dataset.choice)];
        press(buttons, button);
        apply(group);
      });
    }
    for (const button of all("[data-series]", node)) {
      button.addEventListener("click", () => {
        const name = series[Number(button.dataset.series)];
        if (!group.hidden.delete(name)) group.hidden.add(name);
        button.setAttribute("aria-pressed", String(!group.hidden.has(name)));
        apply(group);
      });
    }
    return group;
  });

  const groupOf = (name) => groups.find(({ node }) => node.querySelector(`[data-figure="${name}"]`));
  const chosen = (group, choice) => !group.choice || !choice || choice === group.choice;

  function apply(group) {
    for (const plot of all("[data-figure]", group.node)) {
      const name = plot.dataset.figure;
      for (const model of drawn.get(name)?.models ?? []) {
        const tag = tagged(model, "series");
        if (tag) model.visible = chosen(group, pick(tag, "choice")) && !group.hidden.has(pick(tag, "series"));
      }
      const details = group.node.querySelector(`details[data-table="${name}"]`);
      if (details.open) fill(details, name);
    }
  }

  // tables

  function rows(name, whole) {
    const columns = [];
    const found = [];
    for (const model of drawn.get(name)?.models ?? []) {
      const tag = tagged(model, "keys");
      if (!tag || (!whole && !chosen(groupOf(name), pick(tag, "choice")))) continue;
      const keys = pairs(pick(tag, "keys"));
      const own = pick(tag, "columns");
      for (const column of [...keys.map(([key]) => key), ...own]) if (!columns.includes(column)) columns.push(column);
      const data = model.data instanceof Map ? Object.fromEntries(model.data) : model.data;
      for (let i = 0; i < data[own[0]].length; i++) {
        found.push({ ...Object.fromEntries(keys), ...Object.fromEntries(own.map((c) => [c, data[c][i]])) });
      }
    }
    return { columns, found };
  }

  const number = (value) => (Number.isNaN(value) ? "" : Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(6))));

  function fill(details, name) {
    const { columns, found } = rows(name, false);
    const table = element("table");
    const head = table.createTHead().insertRow();
    for (const column of columns) head.append(element("th", column, { scope: "col" }));
    const body = table.createTBody();
    for (const row of found.slice(0, MOST_ROWS)) {
      const line = body.insertRow();
      for (const column of columns) {
        const value = row[column];
        const cell = line.insertCell();
        const numeric = typeof value === "number";
        cell.textContent = numeric ? number(value) : (value ?? "");
        if (numeric) cell.className = "is-num";
        if (numeric) cell.title = Number.isNaN(value) ? "" : String(value);
      }
    }
    all("th", table).forEach((cell, i) => cell.classList.toggle("is-num", body.rows[0]?.cells[i]?.className === "is-num"));
    const box = details.querySelector(".scroll");
    box.replaceChildren(table);
    if (found.length > MOST_ROWS) {
      box.append(element("p", `The first ${MOST_ROWS} of ${found.length} rows; the download has them all.`, { class: "aside" }));
    }
  }

  function csv(name) {
    const { columns, found } = rows(name, true);
    const quote = (text) => `"${(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
    const cell = (value) => (typeof value === "number" ? (Number.isNaN(value) ? "" : String(value)) : quote(value ?? ""));
    return [columns.map(quote), ...found.map((row) => columns.map((c) => cell(row[c])))].map((line) => `${line.join(",")}\n`).join("");
  }

  for (const details of all("details[data-table]")) {
    details.addEventListener("toggle", () => details.open && fill(details, details.dataset.table));
  }
  for (const button of all("[data-download]")) {
    button.addEventListener("click", () => {
      const link = element("a", "", { download: `${button.dataset.download}.csv` });
      link.href = URL.createObjectURL(new Blob([csv(button.dataset.download)], { type: "text/csv" }));
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    });
  }

  // heat tables

  const quantities = all("[data-quantity]");
  for (const button of quantities) {
    button.addEventListener("click", () => {
      press(quantities, button);
      for (const map of all("[data-map]")) map.hidden = map.dataset.map !== button.dataset.quantity;
    });
  }

  // drawing

  function follow(model) {
    model.selected.change.connect(() => {
      const at = model.selected.indices[0];
      const links = model.data instanceof Map ? model.data.get("_link") : model.data._link;
      if (at === undefined || !links) return;
      location.hash = links[at];
      model.selected.indices = [];
    });
  }

  async function draw(plot) {
    const name = plot.dataset.figure;
    const views = await Bokeh.embed.embed_item(held.figures[name], plot.id);
    const models = [...[...views][0].model.references()];
    drawn.set(name, { models, plot, view: [...views][0] });
    paint(models);
    for (const model of models) if (tagged(model, "keys") && model.selected) follow(model);
    apply(groupOf(name));
  }

  // a canvas keeps the width it had on the screen, which the paper's columns are not; a picture fits any
  function picture(view) {
    const made = element("img", undefined, { class: "printed", alt: "" });
    made.src = view.export("png").canvas.toDataURL();
    return made;
  }

  async function drawAll() {
    for (const plot of all("[data-figure]")) {
      await draw(plot);
      await new Promise((done) => setTimeout(done)); // the page stays alive while it draws
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => repaint());
    addEventListener("beforeprint", () => {
      repaint({ ...held.light, paper: "#ffffff" });
      for (const { plot, view } of drawn.values()) plot.append(picture(view));
    });
    addEventListener("afterprint", () => {
      for (const made of all(".printed")) made.remove();
      repaint();
    });
    document.documentElement.dataset.drawn = "yes";
  }

  if (typeof Bokeh !== "undefined") {
    Bokeh.logger?.set_level?.("warn");
    addEventListener("DOMContentLoaded", drawAll);
  } else document.documentElement.dataset.drawn = "yes";
  return { all, element, press, drawn, csv };
})();
