// The table of many images: a click on a column's name sorts by it, also while rows are added.
let by = null;
const sort = () => {
    const table = element.querySelector("table");
    if (!by || !table) return;
    [...table.tHead.rows[0].cells].forEach((cell, i) => {
        if (!cell.hasAttribute("aria-sort")) return;
        const order = by.down ? "descending" : "ascending";
        cell.setAttribute("aria-sort", i === by.column ? order : "none");
    });
    const key = row => row.cells[by.column].dataset.key;
    const compare = by.kind === "text"
        ? (a, b) => key(a).localeCompare(key(b))
        : (a, b) => key(a) - key(b);
    const rows = [...table.tBodies[0].rows].sort(compare);
    if (by.down) rows.reverse();
    table.tBodies[0].append(...rows);
};
element.addEventListener("click", event => {
    const button = event.target.closest("button[data-kind]");
    if (!button) return;
    const {kind} = button.dataset, column = button.closest("th").cellIndex;
    const down = by && by.column === column ? !by.down : kind === "number";
    by = {column, kind, down};
    sort();
});
watch("value", sort);
