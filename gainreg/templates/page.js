"use strict";
// Rows that are searched, sorted and opened, and buttons that copy. A row is a <tbody>: what is
// always seen of it, and what opens below.
{
  const table = document.querySelector(".rows");
  const rows = [...table.tBodies];
  const heads = [...table.tHead.rows[0].cells];
  const search = document.getElementById("search");
  const std = document.getElementById("std");
  const opener = (row) => row.querySelector(".open");

  const setOpen = (row, open) => {
    opener(row).setAttribute("aria-expanded", open);
    row.rows[1].hidden = !open;
  };

  const say = (text) => {
    const said = document.getElementById("said");
    said.textContent = text;
    clearTimeout(say.timer);
    say.timer = setTimeout(() => { said.textContent = ""; }, 4000);
  };

  const find = () => {
    const words = search.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every((word) => row.dataset.search.includes(word));
    const found = rows.filter((row) => !row.hidden).length;
    document.getElementById("count").textContent = `${found} of ${rows.length}`;
    document.getElementById("nothing").hidden = found > 0;
  };

  // a cell's number or text; what has none stands last, whichever way is sorted
  const value = (row, column) => {
    const text = row.rows[0].cells[column].dataset.value ?? "";
    return text === "" ? null : isNaN(text) ? text : Number(text);
  };

  const sort = (column, direction) => {
    heads.forEach((head, i) => head.setAttribute("aria-sort", i === column ? direction : "none"));
    const sign = direction === "ascending" ? 1 : -1;
    const order = new Map(rows.map((row) => [row, value(row, column)]));
    rows.sort((a, b) => {
      const [x, y] = [order.get(a), order.get(b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (x < y ? -1 : x > y ? 1 : 0);
    });
    table.append(...rows);
  };

  const sortAgain = () => {
    const column = heads.findIndex((head) => head.getAttribute("aria-sort") !== "none");
    if (column >= 0) sort(column, heads[column].getAttribute("aria-sort"));
  };

  // what is always seen of a row is its entry at the std that was chosen
  const choose = () => {
    for (const row of rows) {
      const entry = row.querySelector(`[data-std="${std.value}"]`);
      for (const cell of row.rows[0].querySelectorAll("[data-key]")) {
        const there = entry?.querySelector(`[data-key="${cell.dataset.key}"]`);
        cell.replaceChildren(...(there ? there.cloneNode(true).childNodes : ["–"]));
        cell.dataset.value = there?.querySelector("[data-copy]")?.dataset.copy ?? "";
      }
    }
    sortAgain();
  };

  const copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
      say(`Copied: ${text}`);
    } catch {
      say(`The browser does not let this page copy; here it is: ${text}`);
    }
  };

  const openNamed = () => {
    const row = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!rows.includes(row)) return;
    setOpen(row, true);
    row.scrollIntoView();
  };

  for (const button of document.querySelectorAll("[data-copy]")) {
    button.title = `copy ${button.dataset.copy}`;
  }
  for (const row of rows) setOpen(row, false);
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    sort(column, head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending");
  }));
  search.addEventListener("input", find);
  std?.addEventListener("change", choose);
  addEventListener("hashchange", openNamed);
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button?.dataset.copy) copy(button.dataset.copy);
    if (button?.matches(".open")) {
      setOpen(button.closest("tbody"), button.getAttribute("aria-expanded") !== "true");
    }
  });
  document.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "/" && event.target !== search) {
      event.preventDefault();
      search.focus();
    } else if (step && event.target.matches(".open")) {
      const seen = rows.filter((row) => !row.hidden);
      const next = seen[seen.indexOf(event.target.closest("tbody")) + step];
      event.preventDefault();
      if (next) opener(next).focus();
    }
  });
  if (std) choose();
  find();
  openNamed();
}
