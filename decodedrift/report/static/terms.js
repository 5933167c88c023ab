"use strict";
// What a term means: one bubble for all, on hover, on focus and on touch; Escape closes it.
(() => {
  const tip = document.getElementById("tip");
  let about = null;

  function place() {
    const edge = 8;
    const at = about.getBoundingClientRect();
    const { width, height } = tip.getBoundingClientRect();
    const below = at.bottom + 6;
    const top = below + height + edge > innerHeight && at.top > height + edge ? at.top - height - 6 : below;
    tip.style.left = `${Math.max(edge, Math.min(at.left, document.documentElement.clientWidth - width - edge))}px`;
    tip.style.top = `${top}px`;
  }

  function show(node) {
    about = node;
    tip.textContent = node.dataset.means;
    tip.hidden = false;
    node.setAttribute("aria-describedby", "tip");
    place();
  }

  function hide() {
    about?.removeAttribute("aria-describedby");
    about = null;
    tip.hidden = true;
  }

  const meant = (event) => event.target.closest?.("[data-means]");
  for (const kind of ["pointerover", "focusin", "click"]) {
    document.addEventListener(kind, (event) => {
      const node = meant(event);
      if (node) show(node);
      else if (kind !== "focusin" && about && about !== document.activeElement) hide();
    });
  }
  document.addEventListener("focusout", hide);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  addEventListener("scroll", () => about && place(), { passive: true, capture: true });
})();
