// The Train tab in the browser: the form speaks as it is typed in, pictures enlarge, the plot answers the pointer,
// and the title says how far the training is.
window.treinoTrain = (() => {
  "use strict";
  const STORE = "treino.train.form";
  const PAUSE_MS = 350; // typing has to rest this long before the plan is made anew
  const AGAIN_MS = 900;
  let say = null; // sends a message to the server
  let form = null;
  let card = "";
  let serial = 0;
  let knowsModels = false;
  let knowsCosts = ""; // for which model and pictures the cards tell what they come to
  let costs = {}; // what they tell
  let asked = 0; // how often for what the machine can tell of itself
  let waiting = 0;
  let waitsForEnd = false; // of the training that keeps Start shut: asking until then would cost that training its speed
  let fills = 1; // how often the form was filled, so that an answer that comes too late is known
  let arrives = false; // the tab has come into view: the pictures open in the Dataset tab may be others than the form's
  let basis = {}; // what each box holds, or would hold, without the person
  let own = new Set(); // settings that the person set: no recipe writes over them
  const touched = new Map(); // by setting: after which message the person changed it last
  let asksToFill = 0; // the message whose answer fills the form; 0: none is on its way
  let reasons = {};

  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const field = (name) => one(`[data-field="${name}"]`, form);

  function values() {
    const found = {};
    for (const box of all("[data-field]", form)) {
      const name = box.dataset.field;
      const group = all(`fieldset input[name="${name}"]`, box);
      if (group.length) {
        found[name] = group.filter((each) => each.checked).map((each) => each.value);
      } else {
        const control = one(`[name="${name}"]`, box);
        found[name] = control.type === "checkbox" ? control.checked : control.value;
      }
    }
    return found;
  }

  const FILLING = ["card", "browse", "folder"];

  function fill(filled) {
    for (const [name, value] of Object.entries(filled)) {
      const box = field(name);
      if (!box) continue;
      const group = all(`fieldset input[name="${name}"]`, box);
      if (group.length) {
        for (const each of group) each.checked = value.includes(each.value);
        continue;
      }
      const control = one(`[name="${name}"]`, box);
      if (control.type === "checkbox") control.checked = value === true;
      else control.value = value;
    }
  }

  function send(message) {
    if (!say) return;
    say({ ...message, n: ++serial });
    if (FILLING.includes(message.kind)) asksToFill = serial;
  }

  function typed() {
    clearTimeout(waiting);
    waiting = 0;
    if (!form) return;
    const now = values();
    const offered = one(".form-open", form);
    if (offered.dataset.beside !== now.train_data_dir) offered.hidden = true;
    keep(now);
    const models = knowsModels;
    send({ kind: "typed", values: now, card, own: [...own], models, costs: knowsCosts, arrives: arrives ? fills : 0 });
  }

  // Of this tab of the browser, until it is closed.
  function keep(now) {
    sessionStorage.setItem(STORE, JSON.stringify({ values: now, card, basis, own: [...own] }));
    showOwn(now);
  }

  function soon(pause) {
    clearTimeout(waiting);
    waiting = setTimeout(typed, pause);
  }

  // What stands in a box again as it would without the person is theirs no more.
  function setByHand(name, now) {
    const box = field(name);
    if (!box || "free" in box.dataset || !(name in basis)) return;
    if (String(now[name]) === String(basis[name])) own.delete(name);
    else own.add(name);
  }

  function hasTouched(control) {
    const name = control.closest("[data-field]").dataset.field;
    touched.set(name, serial);
    setByHand(name, values());
  }

  // What the card's recipe makes of model and pictures, in all boxes but those set by hand; and beside each box, why.
  function takeRecipe(recipe) {
    const moved = Object.fromEntries(Object.entries(recipe.values).filter(([name]) => !own.has(name)));
    basis = { ...basis, ...recipe.back, ...moved };
    reasons = recipe.reasons;
    fill(moved);
    keep(values());
  }

  // Beside each box why it holds what it holds; or that the person set it, and a button that takes it back.
  function showOwn(now) {
    const words = document.getElementById("train-words").dataset;
    for (const box of all("[data-field]:not([data-free])", form)) {
      const name = box.dataset.field;
      const isOwn = own.has(name);
      const [why, back] = [one(".form-why", box), one(".form-back", box)];
      const says = isOwn ? words.own : reasons[name] || "";
      if (why.textContent !== says) why.textContent = says;
      box.classList.toggle("is-own", isOwn);
      back.hidden = !isOwn;
      if (!isOwn) continue;
      back.textContent = words.back.replace("{value}", said(basis[name], words));
      back.setAttribute("aria-label", `${back.dataset.label}: ${back.textContent}`);
    }
    for (const fold of all(".form-topic", form)) {
      const count = all("[data-field]", fold).filter((each) => own.has(each.dataset.field)).length;
      const badge = one(".form-changed", fold);
      badge.hidden = !count;
      badge.textContent = count ? words.count.replace("{n}", count) : "";
    }
  }

  function said(value, words) {
    if (typeof value === "boolean") return value ? words.on : words.off;
    const text = Array.isArray(value) ? value.join(", ") : String(value);
    return text === "" ? "–" : text.length > 40 ? `${text.slice(0, 39)}…` : text;
  }

  function goBack(name) {
    own.delete(name);
    fill({ [name]: basis[name] });
    typed();
    one("input, select, textarea", field(name)).focus();
  }

  function mark(problems) {
    for (const box of all("[data-field]", form)) {
      const message = problems[box.dataset.field] || "";
      const wrong = one(".form-wrong", box);
      if (wrong.textContent !== message) wrong.textContent = message;
      wrong.hidden = !message;
      box.classList.toggle("is-wrong", Boolean(message));
      for (const control of all("input, select, textarea, fieldset", box)) {
        if (message) control.setAttribute("aria-invalid", "true");
        else control.removeAttribute("aria-invalid");
      }
      const fold = message && box.closest("details");
      if (fold) fold.open = true;
    }
  }

  function choose(name) {
    card = name;
    for (const radio of all('input[name="train-card"]')) {
      radio.checked = radio.value === name;
      if (radio.checked) tellPurpose(radio);
    }
  }

  function tellCosts() {
    for (const told of all(".card-cost")) {
      const says = costs[told.closest(".card").dataset.card] || "";
      if (told.textContent !== says) told.textContent = says;
    }
  }

  function tellPurpose(radio) {
    const purpose = document.getElementById("train-card-for");
    if (purpose) purpose.textContent = radio ? radio.parentElement.title : "";
  }

  function obey(text) {
    if (!text || !form) return;
    const order = JSON.parse(text);
    if (order.models) suggest(order.models);
    if (order.costs?.key) {
      knowsCosts = order.costs.key;
      asked = 0;
      costs = order.costs.lines;
      tellCosts();
    }
    if (order.arrives) arrives = false;
    if (order.arrives && order.arrives !== fills) delete order.fill; // something else has filled the form meanwhile
    if (order.open) offer(order.open);
    if (order.fill && !Object.keys(order.fill).length) return;
    if (order.first && Object.keys(basis).length) return;
    if (order.fill) take(order);
    if (order.problems && order.n === serial) {
      if (order.recipe) takeRecipe(order.recipe);
      mark(order.problems);
      const isCounted = !order.costs || order.costs.key;
      const isCurious = !(isCounted && knowsCosts && knowsModels) && asked++ < 20;
      waitsForEnd = order.again === "end";
      if ((order.again === "soon" || isCurious) && !waiting) soon(AGAIN_MS);
    }
  }

  // What was changed after the form was asked to be filled stays.
  function take(order) {
    fills += 1;
    const since = asksToFill ? [...touched].filter(([, after]) => after >= asksToFill).map(([name]) => name) : [];
    asksToFill = 0;
    fill(Object.fromEntries(Object.entries(order.fill).filter(([name]) => !since.includes(name))));
    if (order.card !== null) {
      basis = order.fill;
      own = new Set(order.own);
      reasons = {};
      choose(order.card);
      const now = values();
      for (const name of since) setByHand(name, now);
    }
    typed();
  }

  function offer({ folder, says }) {
    const button = one(".form-open", form);
    button.textContent = says;
    button.dataset.folder = folder;
    button.dataset.beside = values().train_data_dir;
    button.hidden = false;
  }

  // How much is kept in memory: a choice fills in its settings, and the list stays as open as it was.
  const opened = { "plan-levels": false, "plan-why": false };
  document.addEventListener("toggle", (event) => {
    for (const name of Object.keys(opened)) if (event.target.classList?.contains(name)) opened[name] = event.target.open;
  }, true);
  function takeLevel(button) {
    const level = JSON.parse(button.dataset.level);
    fill(level);
    const now = values();
    for (const name of Object.keys(level)) setByHand(name, now);
    typed();
  }
  function keepLevels() {
    for (const [name, isOpen] of Object.entries(opened)) {
      const list = one(`#train-plan .${name}`);
      if (list && list.open !== isOpen) list.open = isOpen;
    }
  }

  function suggest(models) {
    knowsModels = true;
    const list = document.getElementById("train-models");
    for (const [value, label] of Object.entries(models)) list.append(new Option(label, value));
  }

  function find(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    let hits = 0;
    for (const fold of all(".form-topic", form)) {
      let within = 0;
      for (const box of all("[data-field]", fold)) {
        const fits = words.every((word) => box.dataset.search.includes(word));
        box.hidden = !fits;
        within += fits;
      }
      fold.hidden = !within;
      fold.open = words.length > 0 && within > 0;
      hits += within;
    }
    for (const box of all(".form-basic [data-field]", form)) {
      const fits = words.length > 0 && words.every((word) => box.dataset.search.includes(word));
      box.classList.toggle("is-found", fits);
      hits += fits;
    }
    one(".form-none", form).hidden = hits > 0;
  }

  function greet() {
    if (!say || !form) return;
    const kept = sessionStorage.getItem(STORE);
    if (kept) {
      const stored = JSON.parse(kept);
      fill(stored.values);
      basis = stored.basis || {};
      own = new Set(stored.own);
      choose(stored.card || "");
      typed();
    } else {
      send({ kind: "hello" });
    }
  }

  // --- what runs: numbers each second, the plot every third, the rest by an event when something of it has changed ---

  const SURE_MS = 10000; // an event now and then all the same, in case one was lost
  const PLOT_MS = 2800; // a plot is most of what a page computes, and hardly another one a second later
  const shown = { status: null, plot: null }; // the elements
  let has = {};
  let key = "";
  let told = 0;
  let drawn = 0;
  let looking = false;

  async function poll(tell) {
    if (looking) return;
    looking = true;
    try {
      const log = one("#train-log input")?.checked ? "1" : "0";
      const draws = Date.now() - drawn > PLOT_MS ? "1" : "0";
      const query = new URLSearchParams({ log, draws, status: has.status ?? "", plot: has.plot ?? "" });
      const answer = await fetch(`/poll/${window.treino.language}?${query}`, { cache: "no-store" });
      if (!answer.ok) return;
      const now = await answer.json();
      window.treino.hear(now.ping);
      if (waitsForEnd && now.ping.training === "idle") {
        waitsForEnd = false;
        typed();
      }
      if (draws === "1") drawn = Date.now();
      if (now.key !== key || Date.now() - told > SURE_MS) {
        has = {}; // the event brings these too, and may bring them after the next look
        key = now.key;
        told = Date.now();
        tell();
        return;
      }
      for (const part of ["status", "plot"]) {
        if (!now[part] || !shown[part]) continue;
        has[part] = now[part];
        const made = document.createElement("template");
        made.innerHTML = now[`${part}_html`];
        become(shown[part], made.content);
      }
    } catch {
      // the frame tells when the server is gone
    } finally {
      looking = false;
    }
  }

  // What Gradio does with a new value, without compiling a template and copying the value for it: nodes stay where they
  // can, so that a selection does, and only what changed is drawn. Its own next value then changes what is here.
  function become(old, now) {
    const [before, after] = [[...old.childNodes], [...now.childNodes]];
    for (const node of before.slice(after.length)) node.remove();
    after.forEach((node, index) => {
      const place = before[index];
      if (!place) old.append(node);
      else if (place.nodeName !== node.nodeName) place.replaceWith(node);
      else if (place.nodeType !== Node.ELEMENT_NODE) { if (place.data !== node.data) place.data = node.data; }
      else {
        for (const { name } of [...place.attributes]) if (!node.hasAttribute(name)) place.removeAttribute(name);
        for (const { name, value } of node.attributes) {
          if (place.getAttribute(name) !== value) place.setAttribute(name, value);
        }
        become(place, node);
      }
    });
  }

  // --- the plot ---------------------------------------------------------------------------------------------------

  function read(svg, event) {
    const box = svg.viewBox.baseVal;
    const matrix = svg.getScreenCTM();
    if (!matrix) return null;
    const x = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse()).x;
    const [left, top, right, bottom] = svg.dataset.area.split(" ").map(Number);
    if (x < left || x > box.width - right) return null;
    const [low, high] = [Number(svg.dataset.low), Number(svg.dataset.high)];
    const shown = svg.dataset.log === "1" ? Math.log10 : (value) => value;
    const back = svg.dataset.log === "1" ? (value) => 10 ** value : (value) => value;
    const lines = [];
    for (const line of all(".plot-line[data-name]", svg)) {
      let near = null;
      for (const point of one("path", line).getAttribute("d").slice(1).split("L")) {
        const [px, py] = point.split(",").map(Number);
        if (near === null || Math.abs(px - x) < Math.abs(near[0] - x)) near = [px, py];
      }
      const share = (box.height - bottom - near[1]) / (box.height - bottom - top);
      const value = back(shown(low) + share * (shown(high) - shown(low)));
      const step = Math.round(((near[0] - left) / (box.width - left - right)) * Number(svg.dataset.last));
      lines.push(`${line.dataset.name}: ${value.toPrecision(3)} (${step})`);
    }
    return lines;
  }

  function plot(element, props) {
    if (props) { // the Runs tab brings its own anew
      shown.plot = element;
      delete has.plot;
    }
    const note = document.createElement("div");
    note.className = "plot-note";
    note.hidden = true;
    document.body.append(note);
    element.addEventListener("pointermove", (event) => {
      const svg = event.target.closest(".plot > svg");
      const lines = svg && read(svg, event);
      note.hidden = !lines || !lines.length;
      if (note.hidden) return;
      note.replaceChildren(...lines.map((line) => Object.assign(document.createElement("div"), { textContent: line })));
      note.style.left = `${Math.min(event.clientX + 16, innerWidth - note.offsetWidth - 8)}px`;
      note.style.top = `${event.clientY + 16}px`;
    });
    element.addEventListener("pointerleave", () => (note.hidden = true));
  }

  // --- pictures ---------------------------------------------------------------------------------------------------

  function enlarge(button) {
    const dialog = document.createElement("dialog");
    dialog.className = "zoomed";
    const picture = Object.assign(document.createElement("img"), {
      src: button.dataset.full,
      alt: button.dataset.caption,
    });
    const caption = Object.assign(document.createElement("p"), { textContent: button.dataset.caption });
    dialog.append(picture, caption);
    dialog.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => {
      dialog.remove();
      button.focus();
    });
    document.body.append(dialog);
    dialog.showModal();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("button.zoom[data-full]");
    if (button) enlarge(button);
    const level = event.target.closest?.("button[data-level]");
    if (level) takeLevel(level);
    // Asked for with a click, as browsers want it; the answer is for when the training has ended.
    const starts = event.target.closest?.("#train-start, #train-resume, #train-retry");
    if (starts && window.Notification?.permission === "default") Notification.requestPermission();
  });

  // --- title and notification -------------------------------------------------------------------------------------

  let state = "";
  let ownTitle = "";

  function follow() {
    const element = document.getElementById("train-state");
    if (!element) return;
    const now = element.dataset.state;
    ownTitle = ownTitle || document.title;
    const ended = now === "finished" || now === "failed" || now === "stopped";
    const words = document.getElementById("train-words").dataset;
    if (element.dataset.title) document.title = `${element.dataset.title} · ${ownTitle}`;
    else if (ended && state && state !== now && document.hidden) {
      document.title = `${now === "failed" ? words.failed : words.done} · ${ownTitle}`;
    } else if (!ended || !document.hidden) document.title = ownTitle;
    const wasLive = ["running", "pausing", "paused", "stopping"].includes(state);
    if (wasLive && ended && document.hidden && window.Notification?.permission === "granted") {
      const text = now === "failed" ? words.failedNote : words.doneNote;
      new Notification(ownTitle, { body: text.replace("{name}", element.dataset.run), tag: "treino" });
    }
    state = now;
  }

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && ownTitle && !document.getElementById("train-state")?.dataset.title) document.title = ownTitle;
  });

  return {
    bridge(element, props, trigger) {
      say = (message) => {
        props.value = JSON.stringify(message);
        trigger("input");
      };
      greet();
    },
    orders(element, props, trigger, watch) {
      watch("value", () => obey(props.value));
    },
    form(element) {
      form = element;
      element.addEventListener("input", (event) => {
        if (event.target.id === "train-search") find(event.target.value);
        else {
          hasTouched(event.target);
          soon(PAUSE_MS);
        }
      });
      // Leaving a box sends at once, so that Start never sees less than what is on the page.
      element.addEventListener("change", (event) => {
        if (event.target.id === "train-search") return;
        hasTouched(event.target);
        typed();
      });
      element.addEventListener("click", (event) => {
        const { folder, back, browse } = event.target.dataset;
        if (browse) send({ kind: "browse", name: browse, values: values() });
        if (back) goBack(back);
        if (folder) send({ kind: "folder", folder, values: values() });
      });
      new MutationObserver(keepLevels).observe(document.getElementById("train-plan"), { childList: true, subtree: true });
      new IntersectionObserver((seen) => {
        if (!seen.some((each) => each.isIntersecting)) return;
        arrives = true;
        if (Object.keys(basis).length) typed();
      }).observe(element);
      greet();
    },
    cards(element) {
      element.addEventListener("change", (event) => {
        if (event.target.name !== "train-card") return;
        clearTimeout(waiting);
        waiting = 0;
        tellPurpose(event.target);
        send({ kind: "card", card: event.target.value, values: values() });
      });
      new MutationObserver(tellCosts).observe(element, { childList: true, subtree: true });
      choose(card);
    },
    poll,
    become,
    // Something was found out about this computer: what a training costs is another.
    renew() {
      knowsCosts = "";
      asked = 0;
      if (Object.keys(basis).length) typed();
    },
    status(element) {
      shown.status = element;
      delete has.status;
      new MutationObserver(follow).observe(element, { attributes: true, childList: true, subtree: true });
    },
    plot,
  };
})();
