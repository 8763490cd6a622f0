/* The frame's own behaviour: appearance, language, the question at closing, errors, and whether the server is there. */
(() => {
  "use strict";
  const words = window.treino;
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  let appearance = words.appearance;

  const isDark = () => (appearance === "system" ? system.matches : appearance === "dark");
  const paint = () => {
    if (document.body.classList.contains("dark") !== isDark()) document.body.classList.toggle("dark", isDark());
    root.style.colorScheme = isDark() ? "dark" : "light";
  };
  const keep = (said) => fetch("/preferences", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(said), keepalive: true,
  });
  paint();
  system.addEventListener("change", paint);
  new MutationObserver(paint).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  // Gradio names the browser's language there, whatever the page's.
  const speak = () => { if (root.lang !== words.language) root.lang = words.language; };
  new MutationObserver(speak).observe(root, { attributes: true, attributeFilter: ["lang"] });
  speak();

  /* Gradio's sign of loading counts its seconds at every frame, and the first one never ends: a tenth of a core for
     nothing to see. Once a second is often enough. */
  const frame = window.requestAnimationFrame.bind(window);
  const counts = /performance\.now\(\)\s*-.+\/\s*1e3/;
  window.requestAnimationFrame = (callback) => (counts.test(callback) ? setTimeout(callback, 1000) : frame(callback));

  const set = (id, text) => {
    const element = document.getElementById(id);
    if (element && element.textContent !== text) element.textContent = text;
  };

  /* Every second, unless the page is hidden: what the server is at. */
  let training = false, leaving = false, crash = words.crash, missed = 0, sparedAt = -Infinity;
  const hear = async (now) => {
    missed = 0;
    training = now.training !== "idle";
    set("core", now.core ? "" : words.loading_core);
    window.treinoCheck?.hear(now.check);
    if (words.born !== now.born) tellGone(words.restarted);
    else { set("gone", ""); document.body.classList.remove("treino-gone"); }
    if (now.crash > crash) { crash = now.crash; await showCrash(crash); }
  };
  /* A tab that asks each second by itself is told the same, and spares a question; where it falls silent, ours goes on. */
  words.hear = (now) => { sparedAt = performance.now(); return hear(now); };
  const ping = async () => {
    const select = document.getElementById("appearance");
    if (select && !select.dataset.wired) { select.value = appearance; select.dataset.wired = "1"; }
    if (performance.now() - sparedAt < 1500) return;
    try {
      await hear(await (await fetch("/ping", { cache: "no-store" })).json());
    } catch {
      training = false;
      missed += 1;
      if (missed > 1) tellGone(words.gone);
    }
  };
  const tellGone = (text) => {
    const element = document.getElementById("gone");
    if (!element || element.dataset.text === text && element.textContent) return;
    document.body.classList.add("treino-gone");
    element.dataset.text = text;
    element.textContent = `${text} `;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = words.reload;
    button.addEventListener("click", () => { leaving = true; location.reload(); });
    element.append(button);
  };
  const showCrash = async (serial) => {
    const answer = await (await fetch(`/crash/${serial}?language=${words.language}`)).json();
    const place = document.getElementById("crash");
    place.innerHTML = answer.html;
    place.scrollIntoView({ block: "nearest" });
  };
  /* A copy button that stands first in the <label> of its box takes the label, so the box gets its words as a name. */
  const nameBoxes = () => {
    for (const box of document.querySelectorAll("label:has(button) :is(input, textarea)")) {
      const said = box.closest("label").querySelector("[data-testid=block-info]");
      if (said && !box.hasAttribute("aria-label")) box.setAttribute("aria-label", said.textContent.trim());
    }
  };
  /* A list box that is left with the Tab key stays open, for Gradio opens it once more as it takes the line that is chosen. */
  document.addEventListener("focusout", ({ target }) => {
    if (target.getAttribute?.("role") !== "combobox") return;
    setTimeout(() => {
      const isOpen = target.getAttribute("aria-expanded") === "true";
      if (isOpen && document.activeElement !== target) target.dispatchEvent(new FocusEvent("blur"));
    }, 200);
  });
  /* Not before the page stands: at the first word from it the server begins to load what is heavy. */
  const isThere = () => !document.hidden && document.getElementById("tabs");
  const begin = () => { if (isThere()) ping(); else setTimeout(begin, 50); };
  setInterval(() => { if (isThere()) { ping(); nameBoxes(); } }, 1000);
  document.addEventListener("visibilitychange", () => { if (isThere()) ping(); });
  begin();

  addEventListener("beforeunload", (event) => {
    if (training && !leaving) { event.preventDefault(); event.returnValue = words.leave; }
  });

  document.addEventListener("change", (event) => {
    if (event.target.id === "appearance") { appearance = event.target.value; paint(); keep({ appearance }); }
    if (event.target.dataset.crash === "private") {
      const panel = event.target.closest(".crash");
      panel.querySelector(".public").hidden = event.target.checked;
      panel.querySelector(".private").hidden = !event.target.checked;
    }
  });
  document.addEventListener("click", async (event) => {
    const link = event.target.closest(".treino-header nav a");
    if (link) { leaving = true; keep({ language: link.lang }); return; }
    const button = event.target.closest("button[data-crash]");
    if (!button) return;
    const panel = button.closest(".crash");
    if (button.dataset.crash === "close") { panel.remove(); return; }
    const wanted = panel.querySelector("[data-crash=private]").checked ? ".private" : ".public";
    await copy(panel.querySelector(wanted).textContent);
    button.textContent = words.crash_copied;
    set("say", words.crash_copied);
  });
  /* On a network without TLS there is no clipboard API; the old way needs something selected. */
  const copy = async (text) => {
    if (navigator.clipboard) { await navigator.clipboard.writeText(text); return; }
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  };
})();
