// Numbers on hover and by keyboard, sorting, downloads. Without it the page still shows everything.
(() => {
  "use strict";
  const make = (tag, attributes = {}, text = "") => {
    const element = Object.assign(document.createElement(tag), { textContent: text });
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };

  // Numbers: of the mark under the pointer or next to it, or of the marks one after another by the arrow keys.
  const tip = document.getElementById("tip");
  const REACH = 24;
  let current = null;
  const hide = () => {
    current?.classList.remove("on");
    current = null;
    tip.classList.remove("on");
  };
  const middle = (element) => {
    const box = element.getBoundingClientRect();
    return [box.x + box.width / 2, box.y + box.height / 2];
  };
  const show = (mark) => {
    if (mark === current) return;
    hide();
    current = mark;
    mark.classList.add("on");
    tip.textContent = mark.dataset.tip;
    const [x, y] = middle(mark);
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x - width / 2, document.documentElement.clientWidth - width - 4))}px`;
    tip.style.top = `${y - height - 12 < 4 ? y + 14 : y - height - 12}px`;
    tip.classList.add("on");
  };
  const nearest = (svg, event) => {
    const distance = (mark) => {
      const [x, y] = middle(mark);
      return Math.hypot(x - event.clientX, y - event.clientY);
    };
    const [best] = [...svg.querySelectorAll("[data-tip]")].map((m) => [distance(m), m]).sort((a, b) => a[0] - b[0]);
    return best && best[0] <= REACH ? best[1] : null;
  };
  for (const svg of document.querySelectorAll(".panel svg")) {
    const point = (event) => {
      const mark = event.target.closest("[data-tip]:not(.line)") ?? nearest(svg, event);
      mark ? show(mark) : hide();
    };
    svg.addEventListener("pointermove", point);
    svg.addEventListener("pointerdown", point);
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("keydown", (event) => {
      const marks = [...svg.querySelectorAll("[data-tip]")];
      const at = marks.indexOf(current);
      const next = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: -1 };
      if (event.key === "Escape") hide();
      if (!(event.key in next) || !marks.length) return;
      event.preventDefault();
      show(marks.at(next[event.key] % marks.length));
    });
  }
  addEventListener("scroll", hide, { passive: true });

  // Sections are folded: a link to one opens it, and so does printing all of them.
  const open = () => {
    const section = document.getElementById(location.hash.slice(1));
    section?.querySelector("details.section")?.setAttribute("open", "");
  };
  addEventListener("hashchange", open);
  open();
  for (const link of document.querySelectorAll("nav a")) link.addEventListener("click", () => setTimeout(open));
  addEventListener("beforeprint", () => {
    for (const section of document.querySelectorAll("details.section")) section.setAttribute("open", "");
  });

  // Tables: buttons in the headers sort; what is not known comes last.
  const text = (cell) => cell.firstChild?.textContent.trim() ?? "";
  const number = (words) => (/^[+-]?[\d.,]+( [%▲▼])?$/.test(words) ? parseFloat(words.replaceAll(",", "")) : NaN);
  const sort = (table, column, up) => {
    const rows = [...table.tBodies[0].rows];
    const words = rows.map((row) => text(row.cells[column]));
    const values = words.map(number);
    const numeric = values.some((value) => !isNaN(value));
    const order = rows.map((_, index) => index).sort((a, b) => {
      if (!numeric) return (up ? 1 : -1) * words[a].localeCompare(words[b], undefined, { numeric: true });
      if (isNaN(values[a]) || isNaN(values[b])) return isNaN(values[a]) - isNaN(values[b]);
      return (up ? 1 : -1) * (values[a] - values[b]);
    });
    table.tBodies[0].append(...order.map((index) => rows[index]));
  };
  const sortable = (table) => {
    if (!table.tHead || table.tBodies[0].rows.length < 2) return;
    const headers = [...table.tHead.rows[0].cells];
    headers.forEach((header, column) => {
      const button = make("button", { type: "button" }, header.textContent);
      header.replaceChildren(button);
      header.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const up = header.getAttribute("aria-sort") !== "ascending";
        headers.forEach((other) => other.setAttribute("aria-sort", "none"));
        header.setAttribute("aria-sort", up ? "ascending" : "descending");
        sort(table, column, up);
      });
    });
  };

  // Downloads. Figures carry their values as CSV; that of a table is made from its cells.
  const save = (name, content, type) => {
    const link = make("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  const PAINT = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity", "opacity",
    "font-size", "font-weight", "text-anchor"];
  const standalone = (svg) => {
    // Plain attributes instead of the style sheet: editors and converters of SVG know no variables. Always on white.
    hide();
    const copy = svg.cloneNode(true);
    document.documentElement.dataset.theme = "light";
    const originals = [svg, ...svg.querySelectorAll("*")];
    [copy, ...copy.querySelectorAll("*")].forEach((element, index) => {
      const style = getComputedStyle(originals[index]);
      for (const name of PAINT) element.setAttribute(name, style.getPropertyValue(name));
      for (const name of ["class", "data-tip", "tabindex"]) element.removeAttribute(name);
    });
    delete document.documentElement.dataset.theme;
    copy.setAttribute("font-family", "sans-serif");
    const [, , width, height] = svg.getAttribute("viewBox").split(" ");
    copy.setAttribute("width", width);
    copy.setAttribute("height", height);
    return new XMLSerializer().serializeToString(copy);
  };
  // An apostrophe before text that a spreadsheet would take for a formula and run.
  const safe = (value) =>
    /^ *[=+\-@\t\r\n＝＋－＠]/.test(value) && !/^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i.test(value) ? `'${value}` : value;
  const quote = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const tableCsv = (table) => [...table.rows].map((row) => [...row.cells].map((cell) => {
    const note = cell.querySelector("small")?.textContent ?? "";
    return quote(`${safe(text(cell))}${note ? ` (${note})` : ""}`);
  }).join(",")).join("\n") + "\n";
  const parse = (csv) => csv.trim().split("\n").map((line) =>
    [...line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g)].map((m) => m[1]?.replaceAll('""', '"') ?? m[2]));
  const button = (label, words, action) => {
    const made = make("button", { type: "button", "aria-label": words }, label);
    made.addEventListener("click", () => action(made));
    return made;
  };
  for (const panel of document.querySelectorAll(".panel")) {
    const { name } = panel.dataset;
    const csv = panel.querySelector(".csv").textContent;
    const values = (toggle) => {
      const old = panel.querySelector(".scroll");
      toggle.setAttribute("aria-expanded", String(!old));
      if (old) return old.remove();
      const [head, ...rows] = parse(csv);
      const table = make("table");
      table.createTHead().append(make("tr"));
      table.tHead.rows[0].append(...head.map((cell) => make("th", { scope: "col" }, cell)));
      table.createTBody().append(...rows.map((row) => {
        const line = make("tr");
        line.append(...row.map((cell) => make("td", {}, cell || "–")));
        return line;
      }));
      const scroll = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `values of ${name}` });
      scroll.append(table);
      panel.append(scroll);
      sortable(table);
    };
    const toggle = button("values", `show the values of ${name} as a table`, values);
    toggle.setAttribute("aria-expanded", "false");
    const tools = make("div", { class: "tools" });
    tools.append(
      toggle,
      button("CSV", `download the values of ${name} as CSV`, () => save(`${name}.csv`, csv, "text/csv")),
      button("SVG", `download the figure ${name} as SVG`, () =>
        save(`${name}.svg`, standalone(panel.querySelector("svg")), "image/svg+xml")),
    );
    panel.append(tools);
  }
  for (const scroll of document.querySelectorAll("main > .scroll, main details > .scroll")) {
    const table = scroll.querySelector("table");
    if (!table.tHead) continue;
    sortable(table);
    const name = scroll.getAttribute("aria-label");
    const file = `${name.toLowerCase().replace(/[^a-z0-9]+/g, "-")}.csv`;
    const tools = make("div", { class: "tools" });
    tools.style.justifyContent = "flex-start";
    tools.append(button("CSV", `download the table ${name} as CSV`, () => save(file, tableCsv(table), "text/csv")));
    scroll.after(tools);
  }
})();
