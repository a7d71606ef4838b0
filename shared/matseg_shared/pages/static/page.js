"use strict";
// What every page does: the theme, tables that sort, and the data that came along.
const matseg = { data: JSON.parse(document.getElementById("data").textContent), onTheme: [] };

matseg.isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

matseg.element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

(() => {
  const words = { auto: "Auto", light: "Light", dark: "Dark" };
  const spoken = { auto: "as the system has it", light: "light", dark: "dark" };
  const button = document.getElementById("theme");
  let theme = "auto";
  try { theme = localStorage.getItem("matseg-theme") || "auto"; } catch { /* some browsers keep nothing for files */ }
  const apply = () => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.querySelector(".word").textContent = words[theme];
    button.setAttribute("aria-label", `Colour theme: ${spoken[theme]}`);
    matseg.onTheme.forEach((redraw) => redraw());
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    const order = ["auto", "light", "dark"];
    theme = order[(order.indexOf(theme) + 1) % order.length];
    try { localStorage.setItem("matseg-theme", theme); } catch { /* as above */ }
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply);
  if (!(theme in words)) theme = "auto";
  apply();
})();

// A header cell's button sorts its table by that column; empty cells go last whichever way.
document.querySelectorAll("table.sortable").forEach((table) => {
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x - y;
  };
  const sortBy = (column, direction) => {
    const rows = [...table.tBodies[0].rows];
    rows.sort((a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      if ((x === "") !== (y === "")) return x === "" ? 1 : -1;
      return direction * compare(x, y);
    });
    table.tBodies[0].append(...rows);
    heads.forEach((head, index) => head.setAttribute("aria-sort",
      index !== column ? "none" : direction > 0 ? "ascending" : "descending"));
  };
  heads.forEach((head, column) => {
    if (head.dataset.sort === "no") return;
    const button = matseg.element("button", { type: "button" });
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () =>
      sortBy(column, head.getAttribute("aria-sort") === "ascending" ? -1 : 1));
  });
});
