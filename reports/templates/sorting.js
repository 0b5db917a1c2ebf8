const table = document.getElementById("cases");
const body = table.tBodies[0];
const headings = [...table.tHead.rows[0].cells];
const value = (row, column) => {
  const text = row.cells[column].textContent.trim();
  const number = Number(text.replace("−", "-").replace(/,/g, ""));
  return Number.isNaN(number) ? text : number;
};
const isSize = (column) => headings[column].textContent.trim() === "Error";
headings.forEach((heading, column) => {
  heading.querySelector("button")?.addEventListener("click", () => {
    const up = heading.getAttribute("aria-sort") === "descending";
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const keyed = [...body.rows].map((row) => {
      const key = value(row, column);
      return [isSize(column) && typeof key === "number" ? Math.abs(key) : key, row];
    });
    keyed.sort(([a], [b]) => {
      if (typeof a === "number" && typeof b === "number") return up ? a - b : b - a;
      if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
      return up ? a.localeCompare(b, "en", { numeric: true }) : b.localeCompare(a, "en", { numeric: true });
    });
    body.append(...keyed.map(([, row]) => row));
  });
});
