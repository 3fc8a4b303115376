"use strict";

// Tables: a click on the head of a column sorts by it; what is missing stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const way = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", way === 1 ? "ascending" : "descending");
      const keyed = [...body.rows].map((row) => [row.cells[column].dataset, row]);
      keyed.sort(([a], [b]) => {
        const numbers = a.value !== undefined && b.value !== undefined;
        if (numbers) return way * (Number(a.value) - Number(b.value));
        const missing = (a.text === "–") - (b.text === "–");
        return missing || way * a.text.localeCompare(b.text, undefined, { numeric: true });
      });
      body.append(...keyed.map(([, row]) => row));
    });
  });
}

// Matrices: the cell under the pointer, or the one with the focus, answers in words.
const shown = (value) => value.toFixed(3);

function said(text, name) {
  const part = document.createElement(name === "pair" ? "p" : "span");
  part.className = name;
  part.textContent = text;
  return part;
}

for (const figure of document.querySelectorAll(".relatedness")) {
  const data = JSON.parse(figure.querySelector(".numbers").textContent);
  const answer = figure.querySelector(".answer");
  const hint = answer.firstElementChild;
  const table = figure.querySelector(".matrix");
  const columns = [...table.tHead.rows[0].cells].slice(1);
  const rows = [...table.tBodies[0].rows].map((row) => [...row.cells].slice(1));
  let here = null;

  const place = (cell) => [cell.parentElement.sectionRowIndex, cell.cellIndex - 1];

  function leave() {
    for (const marked of table.querySelectorAll(".on, .at")) marked.classList.remove("on", "at");
    answer.replaceChildren(hint);
    here = null;
  }

  function show(cell) {
    if (cell === here) return;
    leave();
    here = cell;
    const [row, column] = place(cell);
    const numbers = {};
    data.values.forEach((name, number) => { numbers[name] = data.cells[row][column][number]; });
    const [task, other] = [data.tasks[row], data.others[column]];
    const relation = data.kind === "clusters" ? " and " : " borrows from ";
    const whom = other === "base" ? "base, N(0, I): nobody" : other;
    const line = document.createElement("p");
    line.className = "said";
    line.append(
      said(`${data.probability}: ${shown(numbers.probability)}`, "probability"),
      said(`interval ${shown(numbers.hdi_low)} to ${shown(numbers.hdi_high)}`, "interval"),
      said(`mean ${shown(numbers.mean)}, sd ${shown(numbers.sd)}`, "mean"),
    );
    if (numbers.responsibility !== null) {
      line.append(said(`responsibility ${shown(numbers.responsibility)}`, "responsibility"));
    }
    answer.replaceChildren(said(task + relation + whom, "pair"), line);
    cell.classList.add("on");
    columns[column].classList.add("at");
    cell.parentElement.cells[0].classList.add("at");
  }

  function focus(row, column) {
    const cell = rows[row] && rows[row][column];
    if (!cell || !cell.classList.contains("cell")) return false;
    for (const other of table.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    cell.tabIndex = 0;
    cell.focus();
    return true;
  }

  const first = table.querySelector(".cell");
  if (first) first.tabIndex = 0;
  table.addEventListener("pointerover", (event) => {
    const cell = event.target.closest(".cell");
    if (cell) show(cell);
  });
  table.addEventListener("click", (event) => {
    const cell = event.target.closest(".cell");
    if (cell) focus(...place(cell));
  });
  table.addEventListener("focusin", (event) => {
    const cell = event.target.closest(".cell");
    if (cell) show(cell);
  });
  table.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key === "Escape") leave();
    if (!step[event.key] || !event.target.classList.contains("cell")) return;
    event.preventDefault();
    const [down, right] = step[event.key];
    let [row, column] = place(event.target);
    // The diagonal holds no number and is stepped over.
    for (let tries = 0; tries < 2; tries += 1) {
      row += down;
      column += right;
      if (focus(row, column)) return;
    }
  });
}

// On paper everything that is folded is open.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
