// The check of this computer in the browser: its panel in the Train tab, and a word in the frame while it goes on.
window.treinoCheck = (() => {
  "use strict";
  let shown = "0";
  let isBusy = false;
  let asked = 0;
  let waiting = 0; // for so many answers; the last one counts, for a press is never left out

  const address = (does = "") => `/check/${window.treino.language}${does && `/${does}`}`;

  function show(answer) {
    shown = answer.stamp;
    const panel = document.getElementById("check");
    if (panel) {
      const made = document.createElement("template");
      made.innerHTML = answer.html;
      panel.dataset.stamp = answer.stamp;
      window.treinoTrain.become(panel, made.content);
      if (answer.error) {
        const why = Object.assign(document.createElement("p"), { className: "form-wrong", textContent: answer.error });
        why.setAttribute("role", "alert");
        panel.querySelector(".check-now").replaceChildren(why);
      }
    }
    tellFrame(answer);
    if (isBusy && !answer.busy) window.treinoTrain.renew();
    isBusy = answer.busy;
  }

  function tellFrame({ notice, stop, why }) {
    const place = document.getElementById("checking");
    if (!place) return;
    const [words, button] = place.children;
    if (words.textContent !== notice) words.textContent = notice;
    place.title = why;
    button.textContent = stop;
    button.hidden = !stop;
    place.hidden = !notice;
  }

  async function ask(does) {
    const mine = ++asked;
    waiting += 1;
    try {
      const answer = await fetch(address(does), { method: does ? "POST" : "GET", cache: "no-store" });
      const told = answer.ok && (await answer.json());
      if (told && mine === asked) show(told);
    } catch {
      // the frame tells when the server is gone
    } finally {
      waiting -= 1;
    }
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("button[data-check]");
    if (button) ask(button.dataset.check);
  });

  return {
    // stamp: of how it stands now; the panel may have been drawn anew since.
    hear(stamp) {
      const panel = document.getElementById("check");
      if (!waiting && (stamp !== shown || (panel && panel.dataset.stamp !== stamp))) ask();
    },
  };
})();
