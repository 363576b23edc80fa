// Findings stand in the page; here they are filtered by severity and kind.

function startFindings() {
  const [severity, kind, tally] = [byId("finding-severity"), byId("finding-kind"), byId("finding-count")];
  if (!severity) return;
  const groups = [...document.querySelectorAll("details.group")];
  const apply = () => {
    let left = 0;
    for (const group of groups) {
      const fits = (!severity.value || group.dataset.severity === severity.value) && (!kind.value || group.dataset.kind === kind.value);
      group.hidden = !fits;
      if (fits) left += group.querySelectorAll(".findings > li").length;
    }
    const chosen = groups.filter((group) => !group.hidden);
    if ((severity.value || kind.value) && chosen.length === 1) chosen[0].open = true;
    tally.textContent = left === data.findings.length ? plural(left, "finding") : `${left} of ${plural(data.findings.length, "finding")}`;
  };
  severity.addEventListener("change", apply);
  kind.addEventListener("change", apply);
  apply();
  const more = byId("ranking-more");
  more?.addEventListener("click", () => {
    const items = [...document.querySelectorAll(".ranking .more")];
    items.forEach((item) => (item.hidden = false));
    items[0]?.querySelector("a")?.focus(); // the button goes, the focus must not
    more.remove();
  });
}
