"use strict";
// What the page says, it says without this; here it is made searchable and sortable.

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const compare = new Intl.Collator("en", { numeric: true }).compare;

/** Show the rows that have all words of the search, and the verdict. */
function filterable(form, table) {
  const rows = all("tbody tr", table).map((row) => ({ row, text: row.textContent.toLowerCase() }));
  const [search] = all("input[type=search]", form);
  const [count] = all("output", form);
  const apply = () => {
    const words = search.value.toLowerCase().split(/\s+/);
    const { value: state } = form.querySelector("input[type=radio]:checked");
    let shown = 0;
    for (const { row, text } of rows) {
      const isShown =
        (!state || row.dataset.state === state) && words.every((word) => text.includes(word));
      row.hidden = !isShown;
      shown += isShown;
    }
    count.value = `${shown} of ${rows.length}`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  search.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      search.value = "";
      apply();
    }
  });
  form.hidden = false;
  // A browser that comes back to the page restores what was typed.
  apply();
}

/** Make a button of every head, which sorts by its column, and back. */
function sortable(table) {
  const heads = all("thead th", table);
  const [body] = table.tBodies;
  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.sort ?? cell.textContent.trim();
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      // Of numbers the large ones are looked for, but not of times.
      const falls = head.classList.contains("number") && !head.textContent.startsWith("First");
      const order = head.getAttribute("aria-sort");
      const next = order ? order === "ascending" : falls;
      const sign = next ? -1 : 1;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", next ? "descending" : "ascending");
      const rows = [...body.rows];
      rows.sort((one, other) => sign * compare(key(one, column), key(other, column)));
      body.append(...rows);
    });
  });
}

/** One stop of the tab key, and the arrows from there. What is marked is said below. */
function explorable(chart, readout) {
  const lanes = all("svg", chart).map((lane) => all(".mark", lane)).filter((marks) => marks.length);
  const place = (mark) => mark.getBoundingClientRect().x;
  const say = (mark) => {
    readout.textContent = mark.querySelector("title").textContent;
  };
  const nearest = (marks, x) =>
    marks.reduce((best, mark) =>
      Math.abs(place(mark) - x) < Math.abs(place(best) - x) ? mark : best,
    );
  const target = (mark, key) => {
    const lane = lanes.findIndex((marks) => marks.includes(mark));
    const index = lanes[lane].indexOf(mark);
    switch (key) {
      case "ArrowLeft":
        return lanes[lane][index - 1];
      case "ArrowRight":
        return lanes[lane][index + 1];
      case "ArrowUp":
        return lanes[lane - 1] && nearest(lanes[lane - 1], place(mark));
      case "ArrowDown":
        return lanes[lane + 1] && nearest(lanes[lane + 1], place(mark));
      case "Home":
        return lanes[lane][0];
      case "End":
        return lanes[lane].at(-1);
      default:
        return undefined;
    }
  };
  lanes[0][0].setAttribute("tabindex", "0");
  chart.addEventListener("focusin", (event) => {
    all(".mark[tabindex='0']", chart).forEach((mark) => mark.setAttribute("tabindex", "-1"));
    event.target.setAttribute("tabindex", "0");
    say(event.target);
  });
  chart.addEventListener("pointerover", (event) => {
    if (event.target.matches(".mark")) {
      say(event.target);
    }
  });
  chart.addEventListener("keydown", (event) => {
    const next = target(event.target, event.key);
    if (next) {
      event.preventDefault();
      next.focus();
    }
  });
  readout.hidden = false;
}

/** Open and close with the arrow keys too, as trees are elsewhere. */
function walkable(tree, controls) {
  const visible = () => all("summary", tree).filter((summary) => summary.checkVisibility());
  tree.addEventListener("keydown", (event) => {
    if (!event.target.matches("summary")) {
      return;
    }
    const branch = event.target.parentElement;
    const summaries = visible();
    const index = summaries.indexOf(event.target);
    switch (event.key) {
      case "ArrowRight":
        branch.open = true;
        break;
      case "ArrowLeft":
        if (branch.open) {
          branch.open = false;
        } else {
          branch.parentElement.closest("details")?.querySelector("summary").focus();
        }
        break;
      case "ArrowDown":
        summaries[index + 1]?.focus();
        break;
      case "ArrowUp":
        summaries[index - 1]?.focus();
        break;
      default:
        return;
    }
    event.preventDefault();
  });
  controls.addEventListener("click", (event) => {
    const { open } = event.target.dataset;
    if (open) {
      all("details", tree).forEach((branch) => (branch.open = open === "true"));
    }
  });
  controls.hidden = false;
}

for (const section of all(".targets")) {
  const [table] = all("table", section);
  if (table) {
    filterable(section.querySelector("form"), table);
    sortable(table);
  }
}
for (const section of all(".timeline")) {
  explorable(section.querySelector(".chart"), section.querySelector(".readout"));
}
for (const section of all(".processes")) {
  walkable(section.querySelector(".tree"), section.querySelector(".controls"));
}

// On paper nothing can be opened.
const closed = new Set();
addEventListener("beforeprint", () => {
  for (const details of all("details:not([open])")) {
    closed.add(details);
    details.open = true;
  }
});
addEventListener("afterprint", () => {
  closed.forEach((details) => (details.open = false));
  closed.clear();
});
