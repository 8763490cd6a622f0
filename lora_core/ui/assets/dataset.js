// The Dataset tab in the browser: draws what the server tells of the open folder, and saves captions as they are typed.
window.treinoDataset = (() => {
  "use strict";
  const IDLE_MS = 700; // typing has to rest this long before a caption is saved
  const id = (name) => document.getElementById(`dataset-${name}`);
  const made = (tag, more = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), more);
    node.append(...children);
    return node;
  };
  let words = {}, language = "en", sample = "";
  let items = [], captions = {}, seen = { version: -1, edits: -1 };
  let chosen = "", was = "", timer = 0, saving = null, tag = "";

  const say = (name, values = {}) => words[name].replace(/\{(\w+)\}/g, (_, key) => values[key]);

  async function ask(act, more = {}) {
    try {
      const answer = await fetch("/dataset", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ act, language, ...more }),
      });
      const told = await answer.json();
      complain(told.error || "");
      return told.error ? null : told;
    } catch {
      complain(words.offline);
      return null;
    }
  }

  function complain(sentence) {
    const box = id("error");
    if (box && box.textContent !== sentence) box.textContent = sentence;
  }

  // --- what the server tells --------------------------------------------------------------------------------

  async function refresh() {
    const root = id("grid");
    if (!root || !root.offsetParent) return; // another tab is open
    try {
      const answer = await fetch("/dataset", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ act: "state", language, ...seen }),
      });
      show(await answer.json());
    } catch {
      complain(words.offline);
    }
  }

  function show(told) {
    if (told.version !== seen.version && id("folder") !== document.activeElement) id("folder").value = told.folder;
    if (told.version !== seen.version) {
      complain(told.error);
      items = told.items;
      id("resolution").value = told.resolution;
      id("folders").replaceChildren(...told.recent.map((value) => made("option", { value })));
      drawReport(told.problems);
      drawBuckets(told.buckets);
    }
    if (told.captions) {
      captions = told.captions;
      drawTags(told.tags);
    }
    const isNew = told.version !== seen.version;
    seen = { version: told.version, edits: told.edits };
    if (isNew) drawGrid();
    else if (told.captions) filter();
    if (told.captions) {
      if (!items.some((item) => item.name === chosen)) choose(items.length ? items[0].name : "", false);
      else if (isNew) choose(chosen, false);
      else if (!timer && !saving && id("caption").value !== captions[chosen]) fill();
    }
    id("status").textContent = told.reading ? say("reading", { n: told.done, total: told.total || "…" }) : "";
    showUndo(told);
  }

  function showUndo(told) {
    for (const name of ["undo", "redo"]) {
      const button = id(name);
      button.disabled = !told[name];
      button.title = told[name] ? say(`${name}_what`, { what: told[name] }) : "";
      button.setAttribute("aria-label", button.title || say(name));
    }
  }

  // --- the grid ---------------------------------------------------------------------------------------------

  function drawGrid() {
    const cells = items.map((item) => {
      const image = made("img", { loading: "lazy", decoding: "async", src: item.url, alt: "" });
      const cell = made("button", { type: "button", className: "ds-cell", title: item.name }, image,
        made("span", { textContent: item.name }));
      cell.dataset.name = item.name;
      cell.setAttribute("role", "option");
      if (item.level) cell.dataset.level = item.level;
      if (item.repeats > 1) cell.append(made("b", { textContent: `×${item.repeats}` }));
      return cell;
    });
    id("grid").replaceChildren(...cells);
    if (!items.length) id("grid").append(made("p", { className: "ds-empty", textContent: words.empty }));
    filter();
    mark();
  }

  const tagsOf = (name) => (captions[name] || "").split(",").map((each) => each.trim().replace(/\s+/g, " ").toLowerCase());

  function matches(item) {
    const wanted = id("search").value.trim().toLowerCase();
    if (tag && !tagsOf(item.name).includes(tag.toLowerCase())) return false;
    return !wanted || item.name.toLowerCase().includes(wanted) || (captions[item.name] || "").toLowerCase().includes(wanted);
  }

  function filter() {
    const shown = new Set(items.filter(matches).map((item) => item.name));
    for (const cell of id("grid").querySelectorAll(".ds-cell")) {
      cell.hidden = !shown.has(cell.dataset.name);
      cell.classList.toggle("ds-bare", !(captions[cell.dataset.name] || "").trim());
      cell.setAttribute("aria-label", `${cell.dataset.name}: ${captions[cell.dataset.name] || ""}`);
    }
    const all = shown.size === items.length;
    id("count").textContent = all ? say("count", { n: items.length }) : say("count_shown", { n: shown.size, total: items.length });
    id("clear").hidden = all && !tag;
    for (const button of id("tags").querySelectorAll("[data-tag]")) {
      button.setAttribute("aria-pressed", String(button.dataset.tag === tag));
    }
  }

  const shownNames = () => items.filter(matches).map((item) => item.name);

  // --- one picture ------------------------------------------------------------------------------------------

  function mark() {
    for (const cell of id("grid").querySelectorAll(".ds-cell")) {
      const here = cell.dataset.name === chosen;
      cell.setAttribute("aria-selected", String(here));
      cell.tabIndex = here ? 0 : -1;
    }
  }

  function fill() {
    was = captions[chosen] || "";
    id("caption").value = was;
    id("saved").textContent = "";
    id("conflict").hidden = true;
    countTokens();
  }

  async function choose(name, focus = true) {
    await save();
    chosen = name;
    id("one").hidden = !name;
    mark();
    if (!name) return;
    id("name").textContent = name;
    fill();
    const cell = id("grid").querySelector(`.ds-cell[data-name="${CSS.escape(name)}"]`);
    if (cell) {
      cell.scrollIntoView({ block: "nearest" });
      if (focus) cell.focus({ preventScroll: true });
    }
    const told = await ask("look", { name });
    if (!told || chosen !== name) return;
    const item = items.find((each) => each.name === name);
    id("large").src = told.url;
    id("large").alt = captions[name] || name;
    const [left, top, width, height] = told.box;
    Object.assign(id("crop").style, { left: `${left}%`, top: `${top}%`, width: `${width}%`, height: `${height}%` });
    id("size").textContent = say("crop_size", { w: item.width, h: item.height, tw: told.size[0], th: told.size[1] });
    id("large").parentElement.style.aspectRatio = `${item.width} / ${item.height}`;
  }

  function step(by, focus) {
    const names = shownNames();
    const at = names.indexOf(chosen);
    const next = names[Math.min(names.length - 1, Math.max(0, at + by))];
    if (next && next !== chosen) choose(next, focus);
  }

  function countTokens() {
    const parts = id("caption").value.match(/[\p{L}\p{N}]+|[^\s\p{L}\p{N}]/gu) || [];
    const n = parts.reduce((sum, part) => sum + (/^[\x00-\x7f]+$/.test(part) ? 1 + Math.floor((part.length - 1) / 8)
      : 1 + Math.floor(new TextEncoder().encode(part).length / 5)), 0);
    id("tokens").textContent = say(n > 75 ? "tokens_over" : "tokens", { n });
    id("tokens").classList.toggle("ds-over", n > 75);
  }

  function typed() {
    id("saved").textContent = words.saving;
    countTokens();
    clearTimeout(timer);
    timer = setTimeout(save, IDLE_MS);
  }

  // One save at a time, and the next one waits for it: an older text can never arrive last.
  async function save(force = false) {
    clearTimeout(timer);
    timer = 0;
    while (saving) await saving;
    const name = chosen, text = id("caption") ? id("caption").value : "";
    if (!name || (text === was && !force)) return;
    saving = ask("caption", { name, text, was, force: force === true });
    const told = await saving;
    saving = null;
    if (!told) {
      id("saved").textContent = words.not_saved;
    } else if ("conflict" in told) {
      id("saved").textContent = words.not_saved;
      id("conflict").hidden = false;
      id("conflict").querySelector("blockquote").textContent = told.conflict;
    } else {
      captions[name] = told.saved;
      if (chosen === name) {
        was = text;
        id("conflict").hidden = true;
        id("saved").textContent = words.saved;
      }
      showUndo(told);
      filter();
    }
  }

  // A page that goes away takes its last words along.
  function saveOnLeave() {
    const text = id("caption") ? id("caption").value : was;
    if (!chosen || text === was) return;
    const body = new Blob([JSON.stringify({ act: "caption", language, name: chosen, text, was })], { type: "application/json" });
    navigator.sendBeacon("/dataset", body);
    was = text;
  }

  // --- report, tags, sizes ----------------------------------------------------------------------------------

  function drawReport(problems) {
    const box = id("problems");
    const levels = ["left out", "warning", "note"];
    const by = Object.fromEntries(levels.map((level) => [level, problems.filter((each) => each.level === level)]));
    const counts = { left_out: by["left out"].length, warning: by.warning.length, note: by.note.length };
    id("report-counts").textContent = problems.length ? say("report_counts", counts) : "";
    box.replaceChildren();
    if (!problems.length && items.length) box.append(made("p", { className: "ds-good", textContent: words.report_good }));
    for (const level of levels) {
      if (!by[level].length) continue;
      box.append(made("h4", { textContent: say(`level_${level.replace(" ", "_")}`) }));
      box.append(made("ul", {}, ...by[level].map(problemLine)));
    }
  }

  function problemLine(problem) {
    const line = made("li", {}, made("img", { loading: "lazy", src: problem.url, alt: "", onerror() { this.remove(); } }));
    const open = made("button", { type: "button", className: "ds-plain", textContent: problem.message });
    if (items.some((item) => item.name === problem.name)) open.dataset.name = problem.name;
    line.append(open);
    for (const fix of problem.fixes) {
      const button = made("button", { type: "button", textContent: words[`fix_${fix}`] });
      Object.assign(button.dataset, { fix, of: problem.name, better: problem.better });
      line.append(button);
    }
    return line;
  }

  function drawTags(tags) {
    const buttons = tags.map(([name, count]) => {
      const button = made("button", { type: "button", className: "ds-tag" }, `${name} `, made("b", { textContent: count }));
      button.dataset.tag = name;
      return button;
    });
    id("tags").querySelector("div").replaceChildren(...(buttons.length ? buttons : [words.tags_none]));
  }

  function drawBuckets(buckets) {
    const rows = buckets.map(([w, h, n]) => made("tr", {}, made("td", { textContent: `${w} × ${h}` }), made("td", { textContent: n })));
    id("buckets").querySelector("tbody").replaceChildren(...rows);
  }

  // --- many at once -----------------------------------------------------------------------------------------

  function edit() {
    return {
      edit: id("edit").value, find: id("find").value, replace: id("replace").value, regex: id("regex").checked,
      case: id("case").checked, names: id("shown").checked ? shownNames() : null,
    };
  }

  function showEdit() {
    const isReplace = id("edit").value === "replace";
    for (const each of document.querySelectorAll("#dataset .ds-replace")) each.hidden = !isReplace;
    id("find-label").textContent = isReplace ? words.batch_find : words.batch_text;
    forgetPreview();
  }

  function forgetPreview() {
    id("apply").hidden = true;
    id("changes").replaceChildren();
  }

  async function preview(event) {
    event.preventDefault();
    await save();
    const told = await ask("preview", edit());
    if (!told) return forgetPreview();
    id("apply").hidden = !told.count;
    id("apply").textContent = say("batch_apply", { n: told.count });
    const rows = told.changes.map(([name, before, after]) =>
      made("li", {}, made("strong", { textContent: name }), made("del", { textContent: before }), made("ins", { textContent: after })));
    id("changes").replaceChildren(told.count ? made("ul", {}, ...rows) : made("p", { textContent: words.batch_nothing }));
    if (told.count > rows.length) id("changes").append(made("p", { textContent: say("batch_more", { n: told.count - rows.length }) }));
  }

  async function apply() {
    const told = await ask("apply", edit());
    forgetPreview();
    if (told) id("changes").append(made("p", { className: "ds-good", textContent: say("batch_done", { n: told.count }) }));
    refresh();
  }

  async function takeBack(act) {
    await save();
    await ask(act);
    await refresh();
    if (chosen) fill();
  }

  async function fix(more) {
    await save();
    await ask("fix", more);
    await refresh();
  }

  // --- opening, dropping ------------------------------------------------------------------------------------

  async function open(folder) {
    await save();
    if (await ask("open", { folder })) refresh();
  }

  let completing = 0;
  function complete() {
    clearTimeout(completing);
    completing = setTimeout(async () => {
      const told = await ask("complete", { folder: id("folder").value });
      if (told && told.folders.length) id("folders").replaceChildren(...told.folders.map((value) => made("option", { value })));
    }, 250);
  }

  let dropped = [];
  function offer(files) {
    dropped = [...files].filter((file) => /\.(png|jpe?g|webp|bmp|gif|tiff?|txt)$/i.test(file.name));
    if (!dropped.length) return;
    id("new").hidden = false;
    id("new-name").focus();
  }

  async function upload(event) {
    event.preventDefault();
    const place = id("new-name").value.trim();
    let folder = "", wrong = "";
    for (const [n, file] of dropped.entries()) {
      id("status").textContent = say("dropping", { n: n + 1, total: dropped.length });
      const path = `/dataset/upload/${encodeURIComponent(place)}/${encodeURIComponent(file.name)}`;
      const told = await (await fetch(path, { method: "POST", body: file })).json();
      if (told.error) wrong = told.error;
      else folder = told.folder;
    }
    id("new").hidden = true;
    dropped = [];
    if (folder) await open(folder);
    if (wrong) complain(wrong);
  }

  // --- hands ------------------------------------------------------------------------------------------------

  function keys(event) {
    const isHere = id("grid") && id("grid").offsetParent;
    if (!isHere) return;
    const inGrid = event.target.closest && event.target.closest("#dataset-grid");
    const across = inGrid ? Math.max(1, Math.round(id("grid").clientWidth / event.target.offsetWidth)) : 1;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across, PageUp: -4 * across, PageDown: 4 * across,
      Home: -1e6, End: 1e6 }[event.key];
    if (event.altKey && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
      event.preventDefault();
      const inCaption = event.target === id("caption");
      step(by, !inCaption);
    } else if (inGrid && by && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      step(by, true);
    } else if (inGrid && event.key === "Enter") {
      event.preventDefault();
      id("caption").focus();
    } else if (inGrid && (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
      event.preventDefault();
      takeBack(event.shiftKey ? "redo" : "undo");
    }
  }

  function pressed(event) {
    const hit = event.target.closest("button");
    if (!hit) return;
    const { name, tag: wanted, fix: kind, turn, keep } = hit.dataset;
    if (hit.classList.contains("ds-cell")) choose(name);
    else if (wanted !== undefined) { tag = tag === wanted ? "" : wanted; filter(); }
    else if (kind) fix({ fix: kind, name: hit.dataset.of, better: hit.dataset.better });
    else if (turn) fix({ fix: "turn", name: chosen, quarters: Number(turn) });
    else if (keep === "mine") { was = id("conflict").querySelector("blockquote").textContent; save(true); }
    else if (keep === "theirs") { captions[chosen] = id("conflict").querySelector("blockquote").textContent; fill(); }
    else if (name !== undefined) choose(name);
  }

  function start(element) {
    const facts = JSON.parse(element.querySelector(".ds-facts").dataset.facts);
    ({ words, language, sample } = facts);
    const on = (name, event, act) => id(name).addEventListener(event, act);
    element.addEventListener("click", pressed);
    on("open", "click", () => open(id("folder").value));
    on("folder", "keydown", (event) => { if (event.key === "Enter") open(id("folder").value); });
    on("folder", "input", complete);
    on("sample", "click", () => open(sample));
    if (id("browse")) on("browse", "click", async () => {
      const told = await ask("browse");
      if (told && told.folder) open(told.folder);
    });
    on("undo", "click", () => takeBack("undo"));
    on("redo", "click", () => takeBack("redo"));
    on("search", "input", filter);
    on("clear", "click", () => { id("search").value = ""; tag = ""; filter(); });
    on("caption", "input", typed);
    on("caption", "blur", () => save());
    on("previous", "click", () => step(-1, false));
    on("next", "click", () => step(1, false));
    on("leave-out", "click", () => fix({ fix: "leave_out", name: chosen }));
    on("show-crop", "change", () => { id("crop").hidden = !id("show-crop").checked; });
    on("resolution", "change", async () => { await ask("resolution", { resolution: Number(id("resolution").value) }); refresh(); });
    on("edit", "change", showEdit);
    on("batch-form", "submit", preview);
    on("batch-form", "input", forgetPreview);
    on("apply", "click", apply);
    on("files", "change", () => offer(id("files").files));
    on("new", "submit", upload);
    on("new-cancel", "click", () => { id("new").hidden = true; });
    for (const name of ["dragover", "drop"]) element.addEventListener(name, (event) => event.preventDefault());
    element.addEventListener("dragover", () => id("drop").classList.add("ds-over-me"));
    element.addEventListener("dragleave", () => id("drop").classList.remove("ds-over-me"));
    element.addEventListener("drop", (event) => { id("drop").classList.remove("ds-over-me"); offer(event.dataTransfer.files); });
    document.addEventListener("keydown", keys);
    addEventListener("pagehide", saveOnLeave);
    showEdit();
    refresh();
    setInterval(refresh, 1000);
  }

  return { start };
})();
