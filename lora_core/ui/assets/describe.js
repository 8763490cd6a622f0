// Captions that a captioner proposes, in the Dataset tab: asked for, watched as they come, taken or not.
window.treinoDescribe = (tools) => {
  "use strict";
  const { id, made, say, words, ask, act, tell, state } = tools;
  const list = id("proposed").querySelector("ul");
  let seen = { job: -1, rows: 0 }, isBusy = false, known = {}, isSlow = false;

  const bare = () => state.items().filter((name) => !state.caption(name).trim());
  const wanted = () => {
    const which = id("which").value;
    return which === "bare" ? bare() : which === "shown" ? state.shown() : [state.chosen()].filter(Boolean);
  };
  const ticked = () => [...list.querySelectorAll("input:checked")].map((each) => each.value);

  // What the form says of the dataset as it is now.
  function count() {
    const [none, shown] = [bare().length, state.shown().length];
    id("which").options[0].textContent = say("describe_bare", { n: none });
    id("which").options[1].textContent = say("describe_shown", { n: shown });
    const n = wanted().length;
    id("describe-go").textContent = n === 1 ? words.describe_go_one : say("describe_go", { n });
    id("describe-go").disabled = !n || isBusy || state.readOnly();
    const m = ticked().length;
    id("take").textContent = m === 1 ? words.describe_take_one : say("describe_take", { n: m });
    id("take").disabled = !m || state.readOnly();
    for (const each of document.querySelectorAll("#dataset .ds-sure")) each.hidden = id("captioner").value !== "tags";
    id("sure").parentElement.querySelector("output").textContent = `${Math.round(id("sure").value * 100)} %`;
    const about = known[id("captioner").value];
    const notes = !about ? [] : [about.here ? words.describe_here : say("describe_download", { size: about.size })];
    if (isSlow && id("captioner").value === "sentences") notes.push(words.describe_slow);
    id("captioner-note").textContent = notes.join(" ");
  }

  async function opened() {
    count();
    const told = await ask("captioners");
    if (told) [known, isSlow] = [told.captioners, told.no_card];
    count();
  }

  function row([name, url, before, after]) {
    const tick = made("input", { type: "checkbox", checked: Boolean(after), disabled: !after, value: name });
    const picture = made("img", { loading: "lazy", src: url, alt: "" });
    picture.addEventListener("error", () => picture.classList.add("ds-broken"));
    const text = made("span", {}, made("strong", { textContent: name }), made("ins", { textContent: after || words.describe_nothing }));
    if (before && before !== after) text.append(made("del", { textContent: before }));
    return made("li", {}, made("label", {}, tick, picture, text));
  }

  const left = (seconds) => seconds < 0 ? "" : seconds >= 90 ? say("describe_left_min", { n: Math.ceil(seconds / 60) })
    : say("describe_left_s", { n: Math.max(1, seconds) });

  function progress(told) {
    const bar = id("describing").querySelector("progress"), share = told.total ? told.done / told.total : 0;
    if (told.phase === "loading") bar.removeAttribute("value");
    else bar.value = share;
    const mega = (bytes) => Math.round(bytes / 1e6);
    const values = told.phase === "downloading" ? { n: mega(told.done), total: mega(told.total) } : { n: told.done, total: told.total };
    const text = [say(`describe_${told.phase}`, values), left(told.left)].filter(Boolean).join(", ");
    const box = id("describing").querySelector("span");
    if (box.textContent !== text) box.textContent = text;
  }

  // What the server tells each second; rows come once.
  function show(told) {
    if (told.job !== seen.job) list.replaceChildren();
    seen = { job: told.job, rows: (told.job === seen.job ? seen.rows : 0) + told.rows.length };
    list.append(...told.rows.map(row));
    const wasBusy = isBusy;
    isBusy = ["loading", "downloading", "describing"].includes(told.phase);
    if (!isBusy) id("describe-stop").disabled = false;
    if (wasBusy && !isBusy) opened(); // its model is here now
    id("describing").hidden = !isBusy;
    if (isBusy) progress(told);
    const said = [told.error, ...told.notes, told.phase === "cancelled" ? words.describe_cancelled : ""].filter(Boolean);
    const box = id("describe-told");
    if (box.textContent !== said.join(" ")) box.textContent = said.join(" ");
    box.className = said.length ? "ds-error ds-warning" : "";
    id("proposed").hidden = !list.children.length || isBusy;
    if (!id("view-describe").hidden) count();
  }

  async function go(event) {
    event.preventDefault();
    if (id("describe-go").disabled) return;
    await act("describe", {
      captioner: id("captioner").value, names: wanted(), threshold: Number(id("sure").value), trigger: id("front").value,
    });
  }

  async function take() {
    const told = await act("describe_take", { names: ticked() });
    if (told) tell(told.count === 1 ? words.many_done_one : say("many_done", { n: told.count }));
  }

  for (const name of ["captioner", "which", "sure"]) id(name).addEventListener("input", count);
  id("describe").addEventListener("submit", go);
  id("describe-stop").addEventListener("click", () => {
    id("describe-stop").disabled = true; // it stops after the picture at hand
    act("describe_cancel");
  });
  id("forget").addEventListener("click", () => act("describe_cancel", { forget: true }));
  id("take").addEventListener("click", take);
  list.addEventListener("change", count);
  count();
  return { show, opened, count, seen: () => seen };
};
