// The Runs tab in the browser: what is pressed in the list is told to the server; the chosen line is marked at once.
window.treinoRuns = (() => {
  "use strict";
  let say = null;

  function list() {
    return document.getElementById("runs-list");
  }

  function mark(key) {
    for (const line of list().querySelectorAll("tr[data-key]")) {
      if (line.dataset.key === key) line.setAttribute("aria-current", "true");
      else line.removeAttribute("aria-current");
    }
  }

  document.addEventListener("click", (event) => {
    const hit = event.target.closest?.("#runs-list [data-act]");
    if (!hit || !say) {
      // Anywhere on a line but on its box opens the run, as its name does.
      const line = event.target.closest?.("#runs-list tr[data-key]");
      if (line && say && !event.target.closest("td:first-child")) line.querySelector(".runs-name").click();
      return;
    }
    const act = hit.dataset.act;
    if (act === "tick") say({ act, value: hit.value, on: hit.checked });
    else say({ act, value: hit.dataset.value || "" });
    if (act === "open") mark(hit.dataset.value);
  });

  // Arrow keys go from name to name, as in any list.
  document.addEventListener("keydown", (event) => {
    const name = event.target.closest?.("#runs-list .runs-name");
    if (!name || !["ArrowDown", "ArrowUp"].includes(event.key)) return;
    const names = [...list().querySelectorAll(".runs-name")];
    const next = names[names.indexOf(name) + (event.key === "ArrowDown" ? 1 : -1)];
    if (next) {
      event.preventDefault();
      next.focus();
    }
  });

  // A list that was drawn anew gives the keyboard back to what was pressed.
  let pressed = null;
  function keepFocus(element) {
    element.addEventListener("click", (event) => {
      const hit = event.target.closest("button[data-act]");
      pressed = hit ? [hit.dataset.act, hit.dataset.value || ""] : null;
    });
    new MutationObserver(() => {
      if (!pressed || document.activeElement !== document.body) return;
      const again = [...element.querySelectorAll("button[data-act]")].find(
        (each) => each.dataset.act === pressed[0] && (each.dataset.value || "") === pressed[1],
      );
      if (again) again.focus({ preventScroll: true });
    }).observe(element, { childList: true, subtree: true });
    // A box keeps the tick of its user whatever is drawn, but for a list that says anew which ones are ticked.
    new MutationObserver(() => {
      for (const box of element.querySelectorAll("input[data-act=tick]")) box.checked = box.hasAttribute("checked");
    }).observe(element, { attributes: true, attributeFilter: ["data-anew"], subtree: true });
  }

  let sent = 0;
  return {
    bridge(element, props, trigger) {
      say = (message) => {
        props.value = JSON.stringify({ ...message, n: ++sent });
        trigger("input");
      };
    },
    list: keepFocus,
  };
})();
