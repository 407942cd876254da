"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const list = document.getElementById("steps");
  const scroll = document.getElementById("scroll");
  const svg = document.getElementById("arrows");
  const find = document.getElementById("find");
  const found = document.getElementById("found");
  const rows = new Map(data.steps.map((step) => [step.n, document.getElementById(`step-${step.n}`)]));
  const objects = new Map(data.objects.map((object) => [object.id, object]));
  const last = data.steps.length;
  const edgesOf = new Map();
  for (const edge of data.edges) {
    for (const end of new Set([edge.source, edge.target])) {
      if (!edgesOf.has(end)) edgesOf.set(end, []);
      edgesOf.get(end).push(edge);
    }
  }
  const touched = new Set([...data.boot.map(([id]) => id), ...data.changes.map(([, id]) => id)]);
  let current = 0;

  // Memory after a step: a map from "object:offset" to [text, table it points to]

  let cached = { step: 0, at: 0, cells: boot() };

  function boot() {
    return new Map(data.boot.map(([id, offset, text, target]) => [`${id}:${offset}`, [text, target]]));
  }

  function memoryAt(step) {
    if (step < cached.step) cached = { step: 0, at: 0, cells: boot() };
    while (cached.at < data.changes.length && data.changes[cached.at][0] <= step) {
      const [, id, offset, text, target] = data.changes[cached.at];
      cached.cells.set(`${id}:${offset}`, [text, target]);
      cached.at += 1;
    }
    cached.step = step;
    return cached.cells;
  }

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  function isFreed(object, step) {
    return object.died !== null && object.died <= step;
  }

  function title(object, step) {
    const item = document.createDocumentFragment();
    if (isFreed(object, step)) {
      item.append(element("del", object.name), " ", element("span", `freed at step ${object.died}`, "freed"));
    } else {
      item.append(object.name);
    }
    return item;
  }

  function showMemory(step) {
    const cells = memoryAt(step);
    const byObject = new Map();
    for (const [key, [text, target]] of cells) {
      const [id, offset] = key.split(":").map(Number);
      if (!byObject.has(id)) byObject.set(id, []);
      byObject.get(id).push([offset, text, target]);
    }
    const now = new Set(data.changes.filter(([at]) => at === step && step > 0).map(([, id, offset]) => `${id}:${offset}`));
    const shown = new Set();

    function table(object) {
      shown.add(object.id);
      const item = element("li");
      item.append(title(object, step));
      const entries = (byObject.get(object.id) || []).sort((one, other) => one[0] - other[0]);
      const inner = element("ul");
      let none = object.size;
      for (const [offset, text, target] of entries) {
        if (text === "none" && !now.has(`${object.id}:${offset}`)) continue;
        none -= 1;
        const child = target ? objects.get(target) : undefined;
        const line = element("li");
        const label = element("span", `${object.level}[${offset}] = ${child ? "table" : text}`);
        if (now.has(`${object.id}:${offset}`)) label.className = "changed";
        line.append(label);
        if (child && !shown.has(child.id)) {
          const below = element("ul");
          below.append(table(child));
          line.append(below);
        } else if (child) {
          line.append(` ${child.name}, see above`);
        }
        inner.append(line);
      }
      if (none) inner.append(element("li", `${none === object.size ? "all" : none + " more"} none`, "soft"));
      item.append(inner);
      return item;
    }

    const roots = element("ul");
    const alive = data.objects.filter((object) => object.born <= step);
    const tables = alive.filter((object) => object.table);
    const targets = new Set([...cells.values()].map(([, target]) => target).filter(Boolean));
    for (const object of tables.filter((one) => one.level === "pgd")) roots.append(table(object));
    const loose = tables.filter((one) => !shown.has(one.id) && (!targets.has(one.id) || isFreed(one, step) || one.level !== "pgd"));
    const parts = [roots];
    if (loose.some((one) => !shown.has(one.id))) {
      parts.push(element("h3", "Tables that no entry leads to"));
      const others = element("ul");
      for (const object of loose) if (!shown.has(object.id)) others.append(table(object));
      parts.push(others);
    }
    const words = alive.filter((object) => !object.table && touched.has(object.id));
    if (words.length) {
      parts.push(element("h3", "Locks, keys and patched sites"));
      const locks = element("ul");
      for (const object of words) {
        for (const [offset, text] of byObject.get(object.id) || [[0, "0"]]) {
          const line = element("li");
          const value = element("span", `${object.name}: ${text}`);
          if (now.has(`${object.id}:${offset}`)) value.className = "changed";
          line.append(value);
          locks.append(line);
        }
      }
      parts.push(locks);
    }
    const own = new Map();
    for (const [at, cpu, place, text] of data.own) {
      if (at > step) break;
      if (text === null) own.delete(`${cpu} ${place}`);
      else own.set(`${cpu} ${place}`, `${data.lanes[cpu]} alone sees ${place} = ${text}`);
    }
    if (own.size) {
      parts.push(element("h3", "Stores that the other CPUs do not see yet"));
      const stores = element("ul");
      for (const text of own.values()) stores.append(element("li", text));
      parts.push(stores);
    }
    document.getElementById("memory").replaceChildren(...parts);
    document.getElementById("when").textContent = step ? `after step ${step}` : "at boot";
  }

  // Arrows

  function arrow(source, target, className) {
    const from = rows.get(source), to = rows.get(target);
    if (!from || !to) return;
    const origin = scroll.getBoundingClientRect();
    const a = from.querySelector(".what").getBoundingClientRect();
    const b = to.querySelector(".what").getBoundingClientRect();
    const top = scroll.scrollTop - origin.top, left = scroll.scrollLeft - origin.left;
    const y1 = a.bottom - 9 + top, y2 = b.bottom - 9 + top;
    const right = a.left < b.left;
    const same = Math.abs(a.left - b.left) < 2;
    const x1 = (right && !same ? Math.min(a.right, b.left - 40) : a.left) + left;
    const x2 = (right || same ? b.left : b.right - 6) + left;
    const bend = same ? x1 - 22 : (x1 + x2) / 2;
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", `M${x1} ${y1} C${bend} ${y1} ${bend} ${y2} ${x2} ${y2}`);
    path.setAttribute("class", `arrow ${className}`);
    path.setAttribute("marker-end", "url(#tip)");
    svg.append(path);
  }

  function drawArrows() {
    for (const path of svg.querySelectorAll(":scope > path")) path.remove();
    svg.style.height = `${list.offsetHeight}px`;
    if (data.guilty.length === 2) arrow(data.guilty[0], data.guilty[1], "pair");
    for (const edge of edgesOf.get(current) || []) arrow(edge.source, edge.target, edge.kind);
  }

  // Moving

  // within the list alone: the page itself stays where its reader has put it
  function keepInView(row) {
    const top = row.offsetTop, bottom = top + row.offsetHeight;
    if (top < scroll.scrollTop) scroll.scrollTop = top - 8;
    else if (bottom > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = bottom - scroll.clientHeight + 8;
  }

  function select(step, { focus = false, address = true } = {}) {
    const wanted = Math.max(1, Math.min(last, step));
    if (!rows.has(wanted)) return;
    const before = rows.get(current);
    if (before) before.setAttribute("aria-selected", "false");
    current = wanted;
    const row = rows.get(current);
    row.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", row.id);
    keepInView(row);
    if (focus) list.focus({ preventScroll: true });
    showMemory(current);
    drawArrows();
    const texts = (edgesOf.get(current) || []).map((edge) =>
      edge.target === current ? `Step ${current} ${data.kinds[edge.kind]} (step ${edge.source}).` : `Step ${edge.target} depends on this one: ${data.kinds[edge.kind]}.`,
    );
    document.getElementById("edges").textContent = texts.join(" ");
    const { cpu, text } = data.steps[current - 1];
    document.getElementById("say").textContent = `Step ${current}, ${data.lanes[cpu]}: ${text}. ${texts.join(" ")}`;
    if (address) history.replaceState(null, "", `#step-${current}`);
  }

  function nextGuilty() {
    if (data.guilty.length) select(data.guilty.find((step) => step > current) || data.guilty[0], { focus: true });
  }

  function search(direction) {
    const wanted = find.value.trim().toLowerCase();
    const hits = wanted ? data.steps.filter((step) => rows.get(step.n).textContent.toLowerCase().includes(wanted)) : [];
    found.textContent = wanted ? `${hits.length} found` : "";
    if (!hits.length) return;
    const next = direction > 0 ? hits.find((step) => step.n > current) || hits[0] : hits.findLast((step) => step.n < current) || hits[hits.length - 1];
    select(next.n);
  }

  const moves = {
    first: () => select(1), last: () => select(last), back: () => select(current - 1), on: () => select(current + 1), guilty: nextGuilty,
  };
  const keys = {
    ArrowDown: moves.on, j: moves.on, ArrowUp: moves.back, k: moves.back, Home: moves.first, End: moves.last, g: moves.guilty,
    PageDown: () => select(current + 10), PageUp: () => select(current - 10),
  };

  document.querySelector(".controls").hidden = false;
  document.querySelector(".controls").addEventListener("click", (event) => {
    const move = moves[event.target.dataset.go];
    if (move) move();
  });
  list.addEventListener("click", (event) => {
    const row = event.target.closest(".step");
    if (row) select(Number(row.id.slice(5)), { focus: true });
  });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === find) {
      if (event.key === "Enter") search(event.shiftKey ? -1 : 1);
      if (event.key === "Escape") list.focus();
      return;
    }
    if (event.key === "/") {
      event.preventDefault();
      find.focus();
    } else if (keys[event.key] && !event.target.closest("summary, .memory")) {
      event.preventDefault();
      keys[event.key]();
    }
  });
  find.addEventListener("search", () => search(1));
  new ResizeObserver(drawArrows).observe(list);
  window.addEventListener("hashchange", () => {
    const step = Number((location.hash.match(/^#step-(\d+)$/) || [])[1]);
    if (step && step !== current) select(step);
  });
  const asked = Number((location.hash.match(/^#step-(\d+)$/) || [])[1]);
  // no address yet: the browser would scroll to it once the page is loaded
  select(asked || data.guilty[data.guilty.length - 1] || last, { address: false });
})();
