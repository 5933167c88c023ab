"use strict";
// The list of cases: sorting, filters, and the links that open one.
(() => {
  const { all, element } = window.decodedrift;
  const table = document.getElementById("cases-list");
  if (!table) return;
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const numeric = new Set(["at", "gap", "swing", "kl", "after", "seed"]);
  const column = { prompt: 0, candidate: 1, strategy: 2 };
  const text = (row, name) => (name === "cause" ? row.dataset.cause : row.cells[column[name]].textContent);

  // sorting: what is empty comes last, whichever way

  for (const button of all("[data-sort]", table)) {
    button.addEventListener("click", () => {
      const name = button.dataset.sort;
      const up = button.getAttribute("aria-sort") !== "ascending";
      for (const other of all("[data-sort]", table)) other.removeAttribute("aria-sort");
      button.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => (numeric.has(name) ? row.dataset[name] : text(row, name));
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "" || y === "") return (x === "") - (y === "");
        const found = numeric.has(name) ? Number(x) - Number(y) : x.localeCompare(y);
        return up ? found : -found;
      };
      rows.sort(order);
      body.append(...rows);
    });
  }

  // filters

  const filters = ["cause", "tag", "candidate", "strategy"].map((name) => [name, document.getElementById(`by-${name}`)]);
  for (const [name, select] of filters) {
    if (!select) continue;
    if (name in column) {
      const values = new Set(rows.map((row) => text(row, name)));
      for (const value of values) select.append(element("option", value));
      if (values.size < 2) select.parentElement.hidden = true;
    }
    select.addEventListener("change", filter);
  }

  function filter() {
    let count = 0;
    for (const row of rows) {
      row.hidden = filters.some(([name, select]) => {
        if (!select?.value) return false;
        return name === "tag" ? !row.dataset.tags.split(" ").includes(select.value) : text(row, name) !== select.value;
      });
      count += !row.hidden;
    }
    document.getElementById("count").textContent = count < rows.length ? `${count} of ${rows.length}` : "";
  }

  // opening

  body.addEventListener("click", (event) => {
    const link = event.target.closest("tr")?.querySelector("a");
    if (link && !event.target.closest("a")) location.hash = link.hash;
  });

  const apart = () => rows.filter((row) => !row.hidden && row.dataset.at !== "").map((row) => Number(row.dataset.case));

  // the next case of the list as it is filtered and sorted, or the next of those that part
  window.decodedrift.neighbour = (index, step, parted = false) => {
    const seen = parted ? apart() : rows.filter((row) => !row.hidden).map((row) => Number(row.dataset.case));
    if (!seen.length) return null;
    const at = seen.indexOf(index);
    const next = seen[at < 0 ? (step > 0 ? 0 : seen.length - 1) : (at + step + seen.length) % seen.length];
    return { index: next, hash: rows.find((row) => Number(row.dataset.case) === next).querySelector("a")?.hash };
  };
  window.decodedrift.apart = apart;
  window.decodedrift.choose = (index) => {
    for (const row of rows) row.classList.toggle("chosen", Number(row.dataset.case) === index);
  };
})();
