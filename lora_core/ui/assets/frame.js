/* The frame's own behaviour: light or dark, the question at closing, the error panel. */
(() => {
  "use strict";
  const words = window.treino || {};
  const root = document.documentElement;

  const dark = () => localStorage.getItem("treino-dark");
  const isDark = () => (dark() === null ? matchMedia("(prefers-color-scheme: dark)").matches : dark() === "1");
  const paint = () => { document.body.classList.toggle("dark", isDark()); root.style.colorScheme = isDark() ? "dark" : "light"; };
  paint();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  new MutationObserver(() => { if (document.body.classList.contains("dark") !== isDark()) paint(); })
    .observe(document.body, { attributes: true, attributeFilter: ["class"] });

  let training = false;
  const ping = async () => {
    try { training = (await (await fetch("/ping")).json()).training !== "idle"; } catch { training = false; }
  };
  setInterval(ping, 5000);
  ping();
  addEventListener("beforeunload", (event) => { if (training) { event.preventDefault(); event.returnValue = words.leave; } });

  document.addEventListener("click", async (event) => {
    if (event.target.closest("#appearance")) { localStorage.setItem("treino-dark", isDark() ? "0" : "1"); paint(); return; }
    const button = event.target.closest("[data-trouble]");
    if (!button) return;
    const panel = button.closest(".trouble");
    if (button.dataset.trouble === "close") panel.remove();
    if (button.dataset.trouble === "copy") {
      const wanted = panel.querySelector("[data-trouble=private]").checked ? ".private" : ".public";
      await navigator.clipboard.writeText(panel.querySelector(wanted).textContent);
      button.textContent = words.trouble_copied;
    }
    if (button.dataset.trouble === "private") {
      panel.querySelector(".public").hidden = button.checked;
      panel.querySelector(".private").hidden = !button.checked;
    }
  });
})();
