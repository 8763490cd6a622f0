// The Export tab in the browser: chosen cards and pictures are told to the server, words are copied, paths completed.
window.treinoExport = (() => {
  "use strict";
  let say = null;
  let sent = 0;
  const PATHS = ["export-file", "export-folder", "convert-file", "convert-folder"];

  document.addEventListener("change", (event) => {
    const radio = event.target;
    if (say && radio.matches?.('input[name="export-place"], input[name="export-picture"]')) {
      say({ name: radio.name, value: radio.value });
    }
  });

  // The list of suggestions belongs to the path box that has the keyboard.
  document.addEventListener("focusin", (event) => {
    if (PATHS.some((id) => event.target.closest?.(`#${id}`)) && event.target.matches("input")) {
      event.target.setAttribute("list", "export-path-list");
      event.target.setAttribute("autocomplete", "off");
    }
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("button[data-copy]");
    if (!button) return;
    const words = button.textContent;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = button.dataset.copied;
      setTimeout(() => (button.textContent = words), 1600);
    } catch {
      // Not allowed, or no secure page: mark the words, so that Ctrl+C takes them.
      getSelection().selectAllChildren(button.parentElement.querySelector("code"));
    }
  });

  // What was written, or the question about a name that is taken, comes into view.
  function show(id) {
    const element = document.getElementById(id);
    if (!element) return;
    new MutationObserver(() => {
      const news = element.querySelector(".export-done, .export-wrong");
      if (news) news.scrollIntoView({ block: "nearest" });
    }).observe(element, { childList: true, subtree: true });
  }

  return {
    bridge(element, props, trigger) {
      say = (message) => {
        props.value = JSON.stringify({ ...message, n: ++sent });
        trigger("input");
      };
      for (const id of ["export-result", "convert-result", "convert-wrong"]) show(id);
    },
    enter(id) {
      document.querySelector(`#${id} input`)?.dispatchEvent(new KeyboardEvent("keypress", { key: "Enter", bubbles: true }));
    },
  };
})();
