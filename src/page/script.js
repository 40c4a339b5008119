// Niceties only: the page is whole without them.
(() => {
  "use strict";
  // A tap on a drawing says what is there: touch screens show no tooltips.
  document.addEventListener("click", (event) => {
    const shape = event.target.closest("svg rect, svg circle");
    const figure = shape && shape.closest("figure");
    const title = shape && shape.querySelector("title");
    const tip = figure && figure.querySelector(".tip");
    if (!title || !tip) return;
    figure.querySelectorAll(".picked").forEach((s) => s.classList.remove("picked"));
    shape.classList.add("picked");
    tip.textContent = title.textContent;
  });
  // Filters of rules.
  for (const input of document.querySelectorAll(".filter")) {
    input.hidden = false;
    const rules = [...input.parentElement.querySelectorAll(".rule")];
    input.addEventListener("input", () => {
      const want = input.value.trim().toLowerCase();
      for (const rule of rules) rule.hidden = want !== "" && !rule.textContent.toLowerCase().includes(want);
    });
  }
  // The table of contents follows the reader.
  const links = new Map([...document.querySelectorAll(".toc a")].map((a) => [a.hash.slice(1), a]));
  const here = new IntersectionObserver(
    (entries) => {
      for (const e of entries) {
        const link = links.get(e.target.id);
        if (!link || !e.isIntersecting) continue;
        links.forEach((a) => a.removeAttribute("aria-current"));
        link.setAttribute("aria-current", "true");
        const nav = link.parentElement;
        if (nav.scrollWidth > nav.clientWidth) nav.scrollLeft = link.offsetLeft - 24;
      }
    },
    { rootMargin: "-20% 0px -70% 0px" },
  );
  links.forEach((_, id) => here.observe(document.getElementById(id)));
  // A link into a closed part opens it; printing opens everything.
  const open = () => {
    const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
    for (let d = target && target.closest("details"); d; d = d.parentElement.closest("details")) d.open = true;
  };
  addEventListener("hashchange", open);
  open();
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => (d.open = true)));
})();
