// The Dataset tab in the browser: draws what the server tells of the open folder, and saves captions as they are typed.
window.treinoDataset = (() => {
  "use strict";
  const IDLE_MS = 600; // typing has to rest this long before a caption is saved
  const RETRY_MS = 3000;
  const PREVIEW_MS = 250;
  const LINES = 30; // of each weight in the report, before "Show more"
  const STORE = "treino.dataset.drafts";
  const LEVELS = ["left out", "warning", "note"];
  const id = (name) => document.getElementById(`dataset-${name}`);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const made = (tag, more = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), more);
    node.append(...children);
    return node;
  };

  let words = {}, language = "en", sample = "", toTrain = () => {};
  let items = [], captions = {}, problems = [], cells = new Map(), shown = [];
  let folder = "", seen = { version: -1, edits: -1 }, readOnly = false;
  let chosen = "", looked = null, tag = "", isOffline = false, isFirst = true, isTyped = false, describe = null;
  const say = (name, values = {}) => words[name].replace(/\{(\w+)\}/g, (_, key) => values[key]);

  // --- asking the server ----------------------------------------------------------------------------------------

  const route = (act) => `/dataset/${act}?language=${language}`;
  async function post(act, body = {}) {
    const answer = await fetch(route(act), {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    });
    return answer.json();
  }

  // What a person asked for: an error is shown until the next thing that works. null: it did not.
  async function ask(act, more = {}) {
    try {
      const told = await post(act, more);
      complain(told.error || "");
      return "error" in told ? null : told;
    } catch {
      offline(true);
      return null;
    }
  }

  function complain(sentence) {
    if (id("error").textContent !== sentence) id("error").textContent = sentence;
  }

  function offline(is) {
    if (is) complain(words.offline);
    else if (isOffline) complain("");
    isOffline = is;
  }

  let quiet = 0;
  function tell(sentence) {
    clearTimeout(quiet);
    id("told").textContent = sentence;
    quiet = setTimeout(() => { id("told").textContent = ""; }, 8000);
  }

  let isAsking = false;
  async function refresh() {
    const root = document.getElementById("dataset");
    if (!root || !root.offsetParent || isAsking) return; // another tab is open, or the last answer is on its way
    isAsking = true;
    try {
      const told = await post("state", { ...seen, ...describe.seen() });
      offline(false);
      if (!told.error) show(told);
    } catch {
      offline(true);
    } finally {
      isAsking = false;
    }
    if (drafts.size) flush();
  }

  async function soon() {
    while (isAsking) await new Promise((done) => setTimeout(done, 20));
    await refresh();
  }

  // --- what the server tells ------------------------------------------------------------------------------------

  function show(told) {
    const isNew = told.version !== seen.version;
    const isOther = isNew && (told.folder !== folder || isFirst);
    if (isNew) structure(told, isOther);
    if (told.captions) {
      captions = isNew ? told.captions : { ...captions, ...told.captions };
      drawTags(told.tags);
    }
    seen = { version: told.version, edits: told.edits };
    if (isOther) loadDrafts();
    if (isNew) drawGrid();
    if (told.captions) {
      if (!isNew) Object.keys(told.captions).forEach(label);
      filter();
      if (!isOther && chosen && cells.has(chosen)) fill(false);
      else choose(conflicting() || (items[0] || {}).name || "", { focus: false });
      previewSoon();
    }
    id("reading").hidden = !told.reading;
    if (told.reading) {
      const of = { n: told.done, total: told.total };
      id("reading").querySelector("span").textContent = say("reading", of);
      id("reading").querySelector("progress").value = told.total ? told.done / told.total : 0;
    }
    if (isNew) drawReport(told.reading);
    showUndo(told);
    describe.show(told.describer);
    isFirst = false;
  }

  function structure(told, isOther) {
    folder = told.folder;
    items = told.items;
    problems = told.problems;
    readOnly = told.read_only;
    id("hello").hidden = folder !== "";
    id("desk").hidden = folder === "";
    id("grid").dataset.folder = folder;
    id("train").disabled = !items.length || told.gone;
    id("read-only").hidden = !readOnly;
    complain(told.gone ? say("gone", { folder }) : "");
    id("caption").readOnly = readOnly || told.gone;
    for (const button of all("#dataset .ds-edit")) button.disabled = readOnly || told.gone;
    if (isOther && !isFirst) isTyped = false;
    if (!isTyped) id("folder").value = folder; // what is being typed stays until it is opened
    id("folders").replaceChildren(...told.recent.map((value) => made("option", { value })));
    id("recent").hidden = !told.recent.length;
    id("recent").querySelector("ul").replaceChildren(...told.recent.map((each) => {
      const button = made("button", { type: "button", className: "ds-plain", textContent: each });
      button.dataset.folder = each;
      return made("li", {}, button);
    }));
    if (isOther) {
      chosen = "";
      tag = "";
      id("search").value = "";
    }
    const select = id("resolution");
    if (![...select.options].some((each) => Number(each.value) === told.resolution)) select.append(new Option(told.resolution));
    select.value = told.resolution;
    drawSizes(told.buckets);
    if (looked) looked.name = ""; // sizes and turns may be others now
  }

  function showUndo(told) {
    for (const name of ["undo", "redo"]) {
      const button = id(name);
      button.disabled = !told[name] || readOnly;
      button.title = told[name] ? say(`${name}_what`, { what: told[name] }) : "";
      button.setAttribute("aria-label", button.title || say(name));
    }
  }

  // --- the grid -------------------------------------------------------------------------------------------------

  function drawGrid() {
    const isSame = items.length === cells.size && items.every((item) => cells.get(item.name)?.dataset.url === item.url);
    if (!isSame) {
      cells = new Map(items.map((item, n) => [item.name, cell(item, n)]));
      id("grid").replaceChildren(...cells.values());
      if (!items.length) id("grid").append(made("p", { className: "ds-none", textContent: words.no_pictures }));
    }
    for (const item of items) {
      cells.get(item.name).dataset.level = item.level;
      label(item.name);
    }
  }

  function cell(item, n) {
    const image = made("img", { loading: "lazy", decoding: "async", src: item.url, alt: "" });
    image.addEventListener("error", () => image.classList.add("ds-broken"));
    const node = made("div", { id: `dataset-cell-${n}`, className: "ds-cell", title: item.name }, image,
      made("span", { className: "ds-file", textContent: item.name }), made("span", { className: "ds-snippet" }));
    Object.assign(node.dataset, { name: item.name, url: item.url });
    node.setAttribute("role", "option");
    if (item.repeats > 1) node.append(made("b", { textContent: `×${item.repeats}` }));
    return node;
  }

  function label(name) {
    const node = cells.get(name);
    if (!node) return;
    const text = caption(name);
    node.querySelector(".ds-snippet").textContent = text || words.no_caption;
    node.classList.toggle("ds-bare", !text.trim());
    const level = { "left out": words.level_left_out, warning: words.level_warning }[node.dataset.level];
    node.setAttribute("aria-label", `${name}${level ? ` (${level})` : ""}: ${text || words.no_caption}`);
  }

  const tagsOf = (name) => caption(name).split(",").map((each) => each.trim().replace(/\s+/g, " ").toLowerCase());

  function matches(item) {
    const wanted = id("search").value.trim().toLowerCase();
    if (tag && !tagsOf(item.name).includes(tag.toLowerCase())) return false;
    return !wanted || item.name.toLowerCase().includes(wanted) || caption(item.name).toLowerCase().includes(wanted);
  }

  function filter() {
    shown = items.filter(matches).map((item) => item.name);
    const names = new Set(shown);
    for (const [name, node] of cells) node.hidden = !names.has(name);
    const isAll = shown.length === items.length;
    const count = items.length === 1 ? words.count_one : say("count", { n: items.length });
    id("count").textContent = isAll ? count : say("count_shown", { n: shown.length, total: items.length });
    if (items.length && !shown.length) id("count").textContent = words.none_found;
    id("clear").hidden = !tag && !id("search").value;
    id("clear").textContent = tag ? `${say("filter_tag", { tag })} ✕` : `✕`;
    id("shown-label").textContent = say("many_shown", { n: shown.length });
    for (const button of all("[data-tag]", id("tags"))) button.setAttribute("aria-pressed", String(button.dataset.tag === tag));
    place();
    describe.count();
  }

  function place() {
    const at = shown.indexOf(chosen);
    id("position").textContent = at < 0 ? "" : say("position", { n: at + 1, total: shown.length });
    id("previous").disabled = at <= 0;
    id("next").disabled = at < 0 || at === shown.length - 1;
  }

  // --- one picture ----------------------------------------------------------------------------------------------

  function choose(name, { focus = false } = {}) {
    if (name !== chosen) joining = "";
    const before = cells.get(chosen);
    if (before) before.setAttribute("aria-selected", "false");
    chosen = name;
    const node = cells.get(name);
    id("view-one").classList.toggle("ds-idle", !node);
    if (!node) return;
    node.setAttribute("aria-selected", "true");
    id("grid").setAttribute("aria-activedescendant", node.id);
    node.scrollIntoView({ block: "nearest" });
    if (focus) id("grid").focus({ preventScroll: true });
    id("name").textContent = name;
    id("name").title = name;
    place();
    fill(true);
    if (drafts.size) flush();
  }

  function fill(isOther) {
    const box = id("caption"), text = caption(chosen);
    const isEcho = echo.name === chosen && echo.text === text; // a space at the end is not saved, and typed on after
    if (isOther || (!drafts.has(chosen) && box.value !== text && !isEcho)) {
      box.value = text;
      echo = {};
      if (isOther) wasSaved = false;
    }
    drawSaved();
    drawOwnProblems();
    look();
  }

  async function look() {
    const name = chosen, item = items.find((each) => each.name === name);
    if (!item || (looked && looked.name === name && looked.url === item.url)) return;
    looked = { name, url: item.url };
    id("large").src = item.url;
    id("large").alt = caption(name) || name;
    id("crop").hidden = true;
    let told;
    try {
      told = await post("look", { name });
    } catch {
      return;
    }
    if (chosen !== name || "error" in told) return;
    showTokens(told.tokens);
    id("frame").hidden = "unreadable" in told;
    id("unreadable").hidden = !("unreadable" in told);
    id("unreadable").textContent = told.unreadable || "";
    id("size").textContent = "";
    if ("unreadable" in told) return;
    const [left, top, width, height] = told.box;
    Object.assign(id("crop").style, { left: `${left}%`, top: `${top}%`, width: `${width}%`, height: `${height}%` });
    id("frame").style.setProperty("--ratio", told.width / told.height);
    id("crop").hidden = !id("show-crop").checked;
    const isWhole = width > 99.5 && height > 99.5;
    const values = { w: told.width, h: told.height, tw: told.size[0], th: told.size[1] };
    id("size").textContent = say(isWhole ? "crop_all" : "crop_size", values);
    const large = new Image();
    large.onload = () => { if (chosen === name) id("large").src = told.url; };
    large.src = told.url;
  }

  function step(by, focus) {
    const at = shown.indexOf(chosen);
    const next = shown[Math.min(shown.length - 1, Math.max(0, at + by))];
    if (next && next !== chosen) choose(next, { focus });
  }

  function showTokens(n) {
    id("tokens").textContent = say(n > 75 ? "tokens_over" : "tokens", { n });
    id("tokens").classList.toggle("ds-over", n > 75);
  }

  // --- saving ---------------------------------------------------------------------------------------------------
  // What was typed and is not on the disk yet is a draft. Drafts outlive a reload, a crash of the page and a server that
  // does not answer; each holds the caption it began with, so that another program's change is never written over.

  const drafts = new Map(); // picture -> {text, was, theirs}
  let timer = 0, saving = "", joining = "", echo = {}, wasSaved = false, notBefore = 0;

  const caption = (name) => (drafts.has(name) ? drafts.get(name).text : captions[name] || "");
  const conflicting = () => [...drafts].find(([name, draft]) => draft.theirs !== undefined && cells.has(name))?.[0];

  function keepDrafts() {
    try {
      const kept = JSON.parse(localStorage.getItem(STORE) || "{}");
      if (drafts.size) kept[folder] = Object.fromEntries(drafts);
      else delete kept[folder];
      localStorage.setItem(STORE, JSON.stringify(kept));
    } catch { /* a browser without storage still saves to the server */ }
  }

  function loadDrafts() {
    drafts.clear();
    try {
      const kept = JSON.parse(localStorage.getItem(STORE) || "{}")[folder] || {};
      for (const [name, draft] of Object.entries(kept)) drafts.set(name, draft);
    } catch { /* as above */ }
  }

  function typed() {
    const text = id("caption").value;
    const draft = drafts.get(chosen) || { was: captions[chosen] || "" };
    drafts.set(chosen, { ...draft, text });
    if (text === draft.was && draft.theirs === undefined) drafts.delete(chosen);
    keepDrafts();
    drawSaved();
    clearTimeout(timer);
    timer = setTimeout(flush, IDLE_MS);
  }

  // One draft after the other: an older text can never arrive last.
  async function flush() {
    clearTimeout(timer);
    timer = 0;
    if (saving || Date.now() < notBefore) return;
    for (;;) {
      const next = [...drafts].find(([name, draft]) => draft.theirs === undefined && name in captions);
      if (!next || !(await save(next[0], next[1]))) break;
    }
    drawSaved();
  }

  async function save(name, draft, force = false) {
    saving = name;
    drawSaved();
    let told = null;
    try {
      told = await post("caption", { name, text: draft.text, was: draft.was, force, join: joining === name });
      offline(false);
    } catch {
      offline(true);
    }
    saving = "";
    if (!told || "error" in told) {
      if (told && told.error) complain(told.error);
      notBefore = Date.now() + RETRY_MS;
      return false;
    }
    const now = drafts.get(name);
    if ("conflict" in told) {
      drafts.set(name, { ...now, theirs: told.conflict });
    } else {
      captions[name] = told.saved;
      joining = name === chosen ? name : "";
      if (name === chosen) echo = { name, text: told.saved };
      if (now && now.text !== draft.text) drafts.set(name, { text: now.text, was: told.saved }); // typed on meanwhile
      else drafts.delete(name);
      if (name === chosen) {
        wasSaved = true;
        showTokens(told.tokens);
      }
      showUndo(told);
      label(name);
    }
    keepDrafts();
    return true;
  }

  function drawSaved() {
    const draft = drafts.get(chosen), box = id("saved");
    const state = draft ? (saving === chosen ? "saving" : Date.now() < notBefore || draft.theirs !== undefined ? "not_saved" : "typing")
      : wasSaved ? "saved" : "";
    const text = state === "not_saved" && draft.theirs !== undefined ? words.typing : state ? words[state] : "";
    if (box.textContent !== text) box.textContent = text;
    box.dataset.state = state;
    id("conflict").hidden = !draft || draft.theirs === undefined;
    if (draft && draft.theirs !== undefined) id("conflict").querySelector("blockquote").textContent = draft.theirs || words.no_caption;
  }

  async function settle(keep) {
    const draft = drafts.get(chosen);
    if (!draft) return;
    if (keep === "theirs") {
      captions[chosen] = draft.theirs;
      drafts.delete(chosen);
      keepDrafts();
      fill(true);
      label(chosen);
    } else {
      drafts.set(chosen, { text: draft.text, was: draft.theirs });
      await flush();
    }
    id("caption").focus();
  }

  async function allSaved() {
    while (saving) await new Promise((done) => setTimeout(done, 20));
    notBefore = 0;
    await flush();
  }

  // A page that goes away takes its last words along.
  function saveOnLeave() {
    for (const [name, draft] of drafts) {
      if (draft.theirs !== undefined) continue;
      const body = { name, text: draft.text, was: draft.was };
      navigator.sendBeacon(route("caption"), new Blob([JSON.stringify(body)], { type: "application/json" }));
    }
  }

  // --- the report -----------------------------------------------------------------------------------------------

  function drawReport(isReading) {
    const counted = problems.filter((each) => each.level !== "note").length;
    id("problem-count").textContent = counted || "";
    const parts = [];
    if (isReading) parts.push(made("p", { className: "ds-help", textContent: words.check_wait }));
    else if (!problems.length) parts.push(made("p", { className: "ds-good", textContent: `✓ ${words.check_good}` }));
    for (const level of LEVELS) {
      const of = problems.filter((each) => each.level === level);
      if (!of.length) continue;
      parts.push(made("h3", { textContent: `${words[`level_${level.replace(" ", "_")}`]} (${of.length})` }), wholesale(of));
      const list = made("ul", { className: "ds-report" }, ...of.slice(0, LINES).map(problemLine));
      parts.push(list);
      if (of.length > LINES) parts.push(more(list, of));
    }
    id("problems").replaceChildren(...parts);
    drawOwnProblems();
  }

  function more(list, of) {
    const button = made("button", { type: "button", className: "ds-button ds-small" });
    const left = () => of.length - list.children.length;
    button.textContent = say("more", { n: Math.min(LINES, left()) });
    button.addEventListener("click", () => {
      list.append(...of.slice(list.children.length, list.children.length + LINES).map(problemLine));
      button.hidden = left() === 0;
      button.textContent = say("more", { n: Math.min(LINES, left()) });
    });
    return button;
  }

  // One button for all problems of a kind.
  function wholesale(of) {
    const row = made("div", { className: "ds-row ds-loose" });
    for (const kind of new Set(of.map((each) => each.kind))) {
      const same = of.filter((each) => each.kind === kind && each.fixes.length);
      if (same.length < 2) continue;
      const button = fixButton(same[0].fixes[0], same);
      button.textContent = say("fix_all", { fix: button.textContent, n: same.length });
      row.append(button);
    }
    return row;
  }

  function fixButton(fix, of) {
    const button = made("button", { type: "button", className: "ds-button ds-small ds-edit", textContent: words[`fix_${fix}`] });
    button.disabled = readOnly;
    if (of.length === 1) button.setAttribute("aria-label", `${words[`fix_${fix}`]}: ${of[0].name}`);
    button.addEventListener("click", () => act("fix", { fix, kind: of[0].kind, names: of.map((each) => each.name) }));
    return button;
  }

  function problemLine(problem) {
    const picture = made("img", { loading: "lazy", src: problem.url, alt: "" });
    picture.addEventListener("error", () => picture.classList.add("ds-broken"));
    const isHere = cells.has(problem.name);
    const open = made(isHere ? "button" : "div", { className: "ds-plain" }, picture, made("span", { textContent: problem.message }));
    if (isHere) Object.assign(open, { type: "button" }).dataset.name = problem.name;
    return made("li", {}, open, ...problem.fixes.map((fix) => fixButton(fix, [problem])));
  }

  function drawOwnProblems() {
    const own = problems.filter((each) => each.name === chosen && chosen);
    id("own-problems").replaceChildren(...own.map((each) => {
      const line = made("li", {}, made("span", { textContent: each.message }), ...each.fixes.map((fix) => fixButton(fix, [each])));
      line.dataset.level = each.level;
      return line;
    }));
  }

  // --- tags and sizes -------------------------------------------------------------------------------------------

  function drawTags(tags) {
    const rows = tags.map(([name, count]) => {
      const button = made("button", { type: "button", className: "ds-tag" }, `${name} `, made("b", { textContent: count }));
      button.dataset.tag = name;
      const remove = made("button", { type: "button", className: "ds-tag-remove ds-edit", textContent: "✕", disabled: readOnly });
      remove.dataset.untag = name;
      remove.title = say("tag_remove", { tag: name });
      remove.setAttribute("aria-label", remove.title);
      return made("span", { className: "ds-tag-pair" }, button, remove);
    });
    id("tags").replaceChildren(...(rows.length ? rows : [words.tags_none]));
  }

  function drawSizes(buckets) {
    const most = Math.max(1, ...buckets.map((each) => each[2]));
    const rows = buckets.map(([w, h, n]) => {
      const bar = made("i");
      bar.style.width = `${(n / most) * 160}px`;
      return made("tr", {}, made("td", { textContent: `${w} × ${h}` }), made("td", {}, `${n} `, bar));
    });
    id("sizes").querySelector("tbody").replaceChildren(...rows);
  }

  // --- many at once ---------------------------------------------------------------------------------------------

  function order() {
    return {
      edit: id("edit").value, find: id("find").value, replace: id("replace").value, regex: id("regex").checked,
      case: id("case").checked, names: id("shown").checked ? shown : null,
    };
  }

  function showEdit() {
    const kind = id("edit").value;
    for (const each of all("#dataset .ds-replace")) each.hidden = kind !== "replace";
    const name = { replace: "many_find", trigger: "many_word", remove_tag: "many_tag" }[kind] || "many_text";
    id("find-label").textContent = words[name];
    id("find-help").textContent = { many_text: words.many_text_help, many_word: words.many_word_help }[name] || "";
    previewSoon();
  }

  let previewing = 0, previewed = 0;
  function previewSoon() {
    clearTimeout(previewing);
    if (id("view-many").hidden) return;
    previewing = setTimeout(preview, PREVIEW_MS);
  }

  async function preview() {
    const mine = ++previewed;
    if (!id("find").value) return showChanges({ count: 0, changes: [] }, true);
    await allSaved();
    const told = await ask("preview", order());
    if (mine === previewed) showChanges(told || { count: 0, changes: [] }, !told);
  }

  function showChanges(told, isBlank) {
    const n = told.count;
    id("apply").disabled = !n || readOnly;
    id("apply").textContent = n === 1 ? words.many_apply_one : say("many_apply", { n });
    if (isBlank) return id("changes").replaceChildren();
    const rows = told.changes.map(([name, before, after]) => made("li", {}, made("strong", { textContent: name }), difference(before, after)));
    id("changes").replaceChildren(n ? made("ul", {}, ...rows) : made("p", { className: "ds-help", textContent: words.many_nothing }));
    if (n > rows.length) id("changes").append(made("p", { className: "ds-help", textContent: say("many_more", { n: n - rows.length }) }));
  }

  // The part between what both begin and end with, struck out and written anew.
  function difference(before, after) {
    let start = 0, end = 0;
    const most = Math.min(before.length, after.length);
    while (start < most && before[start] === after[start]) start++;
    while (end < most - start && before[before.length - 1 - end] === after[after.length - 1 - end]) end++;
    const node = made("span", {}, before.slice(0, start));
    const [gone, come] = [before.slice(start, before.length - end), after.slice(start, after.length - end)];
    if (gone) node.append(made("del", { textContent: gone }));
    if (come) node.append(made("ins", { textContent: come }));
    node.append(before.slice(before.length - end));
    return node;
  }

  async function applyMany(event) {
    event.preventDefault();
    if (id("apply").disabled) return;
    const told = await act("apply", order());
    if (told) tell(told.count === 1 ? words.many_done_one : say("many_done", { n: told.count }));
    id("find").focus();
  }

  // --- what changes the dataset ---------------------------------------------------------------------------------

  async function act(name, more = {}) {
    await allSaved();
    joining = "";
    echo = {};
    const told = await ask(name, more);
    await soon();
    return told;
  }

  async function takeBack(name) {
    if (id(name).disabled) return;
    const told = await act(name);
    if (told && told.name && cells.has(told.name)) choose(told.name);
  }

  async function leaveOut() {
    if (!chosen || readOnly) return;
    const name = chosen, at = shown.indexOf(name);
    const hadFocus = document.activeElement === id("grid");
    const next = shown[at + 1] || shown[at - 1] || "";
    if (await act("fix", { fix: "leave_out", names: [name] })) choose(cells.has(next) ? next : (items[0] || {}).name || "", { focus: hadFocus });
  }

  // --- opening, dropping ----------------------------------------------------------------------------------------

  async function open(name) {
    await allSaved();
    if (!(await ask("open", { folder: name }))) return;
    isTyped = false;
    await soon();
  }

  let completing = 0;
  function complete() {
    isTyped = id("folder").value !== folder;
    clearTimeout(completing);
    completing = setTimeout(async () => {
      const told = await post("complete", { folder: id("folder").value }).catch(() => null);
      if (told && told.folders) id("folders").replaceChildren(...told.folders.map((value) => made("option", { value })));
    }, 200);
  }

  let dropped = [];
  function offer(files) {
    dropped = [...files].filter((file) => /\.(png|jpe?g|webp|bmp|gif|tiff?|avif|jfif|heic|txt)$/i.test(file.name));
    if (!dropped.length) return;
    id("new-title").textContent = say("drop_title", { n: dropped.length });
    id("add-here").hidden = !folder || readOnly;
    id("new").showModal();
    (folder && !readOnly ? id("add-here") : id("new-name")).focus();
  }

  async function upload(place) {
    id("new").close();
    await allSaved();
    const batch = [...crypto.getRandomValues(new Uint8Array(8))].map((each) => each.toString(16).padStart(2, "0")).join("");
    const files = dropped, wrong = [];
    dropped = [];
    for (const [n, file] of files.entries()) {
      tell(say("dropping", { n: n + 1, total: files.length }));
      const query = new URLSearchParams({ place, language });
      try {
        const answer = await fetch(`/dataset/upload/${batch}/${encodeURIComponent(file.name)}?${query}`, { method: "POST", body: file });
        const told = await answer.json();
        if (told.error) wrong.push(told.error);
      } catch {
        wrong.push(words.offline);
        break;
      }
    }
    tell("");
    const told = wrong.length < files.length ? await act("add", { batch, place }) : null;
    if (told) tell(say("dropped", { n: files.length - wrong.length }));
    if (told && cells.has(told.name)) choose(told.name);
    if (wrong.length) complain([...new Set(wrong)].slice(0, 3).join(" "));
  }

  // --- hands ----------------------------------------------------------------------------------------------------

  function view(name) {
    for (const button of all("#dataset [role=tab]")) {
      const isThis = button.dataset.view === name;
      button.setAttribute("aria-selected", String(isThis));
      button.tabIndex = isThis ? 0 : -1;
      id(`view-${button.dataset.view}`).hidden = !isThis;
    }
    if (name === "many") previewSoon();
    if (name === "describe") describe.opened();
  }

  function tabKeys(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const tabs = all("#dataset [role=tab]");
    const next = tabs[(tabs.indexOf(event.target) + by + tabs.length) % tabs.length];
    event.preventDefault();
    view(next.dataset.view);
    next.focus();
  }

  function gridKeys(event) {
    if (event.altKey) return captionKeys(event);
    const columns = getComputedStyle(id("grid")).gridTemplateColumns.split(" ").length;
    const rows = Math.max(1, Math.floor(id("grid").clientHeight / ((cells.get(chosen) || id("grid")).offsetHeight || 1)));
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -rows * columns,
      PageDown: rows * columns, Home: -1e6, End: 1e6 }[event.key];
    const key = event.key.toLowerCase(), isCommand = event.ctrlKey || event.metaKey;
    if (by && !isCommand) step(by, true);
    else if (event.key === "Enter") { view("one"); id("caption").focus(); }
    else if (event.key === "Delete") leaveOut();
    else if (isCommand && (key === "y" || (key === "z" && event.shiftKey))) takeBack("redo");
    else if (isCommand && key === "z") takeBack("undo");
    else return;
    event.preventDefault();
  }

  function captionKeys(event) {
    const isCommand = event.ctrlKey || event.metaKey;
    const by = event.altKey ? { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key]
      : isCommand && event.key === "Enter" ? (event.shiftKey ? -1 : 1) : 0;
    if (by) step(by, false);
    else if (event.key === "Escape") id("grid").focus();
    else return;
    event.preventDefault();
  }

  function pressed(event) {
    const cellHit = event.target.closest(".ds-cell");
    if (cellHit) { view("one"); return choose(cellHit.dataset.name, { focus: true }); }
    const hit = event.target.closest("button");
    if (!hit) return;
    const { name, tag: wanted, untag, turn, keep, view: named, folder: other } = hit.dataset;
    if (named) view(named);
    else if (other) open(other);
    else if (wanted !== undefined) { tag = tag === wanted ? "" : wanted; filter(); previewSoon(); }
    else if (untag !== undefined) {
      id("edit").value = "remove_tag";
      id("find").value = untag;
      view("many");
      showEdit();
      id("apply").focus();
    }
    else if (turn) act("turn", { name: chosen, quarters: Number(turn) });
    else if (keep) settle(keep);
    else if (name !== undefined) { view("one"); choose(name); id("caption").focus(); }
  }

  function dropping(element) {
    let depth = 0;
    const over = (by) => { depth = Math.max(0, depth + by); element.classList.toggle("ds-over-me", depth > 0); };
    element.addEventListener("dragenter", (event) => { event.preventDefault(); over(1); });
    element.addEventListener("dragleave", () => over(-1));
    element.addEventListener("dragover", (event) => event.preventDefault());
    element.addEventListener("drop", (event) => { event.preventDefault(); depth = 0; over(0); offer(event.dataTransfer.files); });
    for (const name of ["files", "files-first"]) {
      id(name).addEventListener("change", () => { offer(id(name).files); id(name).value = ""; });
    }
    id("add-here").addEventListener("click", () => upload(""));
    id("new-cancel").addEventListener("click", () => id("new").close());
    id("new").querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (id("new-name").value.trim()) upload(id("new-name").value.trim());
      else id("new-name").focus();
    });
  }

  function start(element) {
    ({ words, language, sample } = JSON.parse(element.querySelector(".ds-facts").dataset.facts));
    const on = (name, event, done) => id(name).addEventListener(event, done);
    element.addEventListener("click", pressed);
    on("open", "click", () => open(id("folder").value));
    on("folder", "keydown", (event) => { if (event.key === "Enter") open(id("folder").value); });
    on("folder", "input", complete);
    on("sample", "click", () => open(sample));
    if (id("browse")) on("browse", "click", async () => {
      const told = await ask("browse");
      if (told && told.folder) open(told.folder);
    });
    on("train", "click", async () => { await allSaved(); toTrain(); });
    for (const name of ["undo", "redo"]) on(name, "click", () => takeBack(name));
    on("search", "input", () => { filter(); previewSoon(); });
    on("clear", "click", () => { id("search").value = ""; tag = ""; filter(); previewSoon(); id("search").focus(); });
    on("grid", "keydown", gridKeys);
    on("caption", "keydown", captionKeys);
    on("caption", "input", typed);
    on("caption", "blur", flush);
    on("previous", "click", () => step(-1, false));
    on("next", "click", () => step(1, false));
    on("leave-out", "click", leaveOut);
    on("resolution", "change", async () => { if (await ask("resolution", { resolution: Number(id("resolution").value) })) soon(); });
    id("show-crop").checked = localStorage.getItem("treino.dataset.crop") !== "0";
    const showCrop = () => {
      id("crop").hidden = !id("show-crop").checked;
      localStorage.setItem("treino.dataset.crop", id("show-crop").checked ? "1" : "0");
    };
    on("show-crop", "change", showCrop);
    showCrop();
    on("edit", "change", showEdit);
    on("many", "input", previewSoon);
    on("many", "submit", applyMany);
    for (const button of all("[role=tab]", element)) button.addEventListener("keydown", tabKeys);
    dropping(element);
    const state = {
      items: () => items.map((item) => item.name), shown: () => shown, chosen: () => chosen, caption, readOnly: () => readOnly,
    };
    describe = treinoDescribe({ id, made, say, words, ask, act, tell, state });
    addEventListener("pagehide", saveOnLeave);
    document.addEventListener("visibilitychange", () => { if (document.hidden) flush(); });
    view("one");
    id("shown-label").textContent = say("many_shown", { n: 0 });
    showEdit();
    showChanges({ count: 0, changes: [] }, true);
    refresh();
    setInterval(refresh, 1000);
  }

  let pressedTrain = 0;
  return {
    start,
    bridge(element, props, trigger) {
      toTrain = () => {
        props.value = String(++pressedTrain);
        trigger("input");
      };
    },
  };
})();
