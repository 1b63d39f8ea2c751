"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const map = byId("map"), card = byId("card"), said = byId("said"), find = byId("find");
  const heads = [...document.querySelectorAll("#calls thead th")].map((head) => head.textContent);
  // Where the keys stop: cells and the names of blocks. Tab reaches the current one, arrow keys the others.
  const stops = [...map.querySelectorAll("[tabindex]")];
  const visible = (stop) => stop.offsetParent !== null;
  let current = stops[0];

  // What is known of a cell: its row of the table; of a block: what its header says.
  const rowOf = (stop) => byId("r" + stop.dataset.n);
  function facts(stop) {
    if (!stop.dataset.n) return [[stop.getAttribute("aria-label"), ""], ["", stop.dataset.about]];
    const texts = [...rowOf(stop).cells].map((cell) => cell.textContent);
    return texts.map((text, place) => (place ? [heads[place], withRule(text, heads[place])] : [text, ""]));
  }
  function withRule(text, head) {
    const rule = head === "why" && /^rule \d+$/.test(text) && byId(text.replace(" ", ""));
    return rule ? `${text}: ${rule.textContent}` : text;
  }
  const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;
  function rule(stop) {
    const pick = (stop.dataset.n ? rowOf(stop) : stop).dataset.pick;
    return pick && chosen("form").replace("%s", () => pick);
  }

  // The card beside the cell that is pointed at or has the focus.
  function show(stop) {
    const list = document.createElement("dl");
    const [[name], ...rest] = facts(stop);
    for (const [head, text] of rest) {
      if (!text) continue;
      if (head) list.appendChild(document.createElement("dt")).textContent = head;
      list.appendChild(document.createElement("dd")).textContent = text;
    }
    const title = document.createElement("b");
    title.textContent = name;
    const code = document.createElement("code");
    code.textContent = rule(stop) || "no rule selects this alone";
    card.replaceChildren(title, list, code);
    card.hidden = false;
    const at = stop.getBoundingClientRect(), size = card.getBoundingClientRect();
    const below = at.bottom + size.height < window.innerHeight || at.top < size.height;
    card.style.left = Math.max(4, Math.min(at.left, document.documentElement.clientWidth - size.width - 4)) + "px";
    card.style.top = (below ? at.bottom : at.top - size.height) + "px";
    for (const other of stops) {
      other.classList.toggle("on", other !== stop && !!stop.dataset.n && other.dataset.n === stop.dataset.n);
    }
    stop.setAttribute("aria-describedby", "card");
  }
  function hide() {
    card.hidden = true;
    stops.forEach((stop) => { stop.classList.remove("on"); stop.removeAttribute("aria-describedby"); });
  }

  function reach(stop) {
    current.tabIndex = -1;
    current = stop;
    current.tabIndex = 0;
  }
  function go(stop) {
    if (!stop) return;
    reach(stop);
    stop.focus();
  }
  const inRow = (row) => [...row.querySelectorAll("[tabindex]")].filter(visible);
  function step(key, far) {
    const all = stops.filter(visible), place = all.indexOf(current);
    const rows = [...map.querySelectorAll(".row")], row = current.closest(".row"), own = inRow(row);
    const other = { ArrowUp: -1, ArrowDown: 1 }[key];
    if (other) {
      const next = rows[rows.indexOf(row) + other];
      return next && (inRow(next)[own.indexOf(current)] || inRow(next).at(-1));
    }
    const among = far ? all : own;
    return { ArrowLeft: all[place - 1], ArrowRight: all[place + 1], Home: among[0], End: among.at(-1) }[key];
  }

  async function copy(stop) {
    const text = rule(stop);
    if (!text) return;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = document.body.appendChild(document.createElement("textarea"));
      area.value = text;
      area.select();
      document.execCommand("copy");
      area.remove();
      stop.focus();
    }
    said.textContent = `copied: ${text}`;
    stop.classList.add("copied");
    setTimeout(() => stop.classList.remove("copied"), 600);
  }

  map.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") copy(current);
    else if (event.key === "Escape") hide();
    else if (/^(Arrow|Home|End)/.test(event.key)) go(step(event.key, event.ctrlKey));
    else return;
    event.preventDefault();
  });
  map.addEventListener("click", (event) => {
    const stop = event.target.closest("[tabindex]");
    if (!stop) return;
    go(stop);
    copy(stop);
  });
  map.addEventListener("focusin", (event) => { if (event.target.matches("[tabindex]")) show(event.target); });
  map.addEventListener("focusout", hide);
  document.addEventListener("pointerover", (event) => {
    const stop = event.target.closest("#map [tabindex]");
    if (stop) show(stop);
    else if (!event.target.closest("#card")) hide();
  });
  document.querySelectorAll('input[name="show"]').forEach((button) => {
    button.addEventListener("change", () => {
      map.dataset.show = chosen("show");
      if (!visible(current)) reach(stops.find(visible));
    });
  });
  find.addEventListener("input", () => {
    const words = find.value.toLowerCase().split(/\s+/);
    for (const stop of stops.filter((one) => one.dataset.n)) {
      const [site, what] = rowOf(stop).cells, text = `${site.textContent} ${what.textContent}`.toLowerCase();
      stop.classList.toggle("dim", !words.every((word) => text.includes(word)));
    }
  });
  if (current) reach(current);
  document.querySelector(".tools").hidden = false;
})();
