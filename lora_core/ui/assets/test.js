(() => {
// The border between two compared pictures follows the slider that lies over them.
document.addEventListener("input", (event) => {
  const slider = event.target;
  if (!(slider instanceof HTMLInputElement) || !slider.closest(".test-compare")) return;
  slider.parentElement.style.setProperty("--cut", `${slider.value}%`);
  slider.setAttribute("aria-valuetext", `${slider.value} %`);
});

// A picture of the strip that is pressed is told to the server through a component without a face.
let tellOfPicture = () => {};
document.addEventListener("click", (event) => {
  const button = event.target instanceof Element && event.target.closest("#test-history [data-picture]");
  if (button) tellOfPicture(button.dataset.picture);
});
window.treinoTest = {
  bridge(element, props, trigger) {
    let presses = 0;
    tellOfPicture = (picture) => {
      presses += 1; // the same picture pressed twice is two messages
      props.value = `${picture} ${presses}`;
      trigger("input");
    };
  },
};
})();
