// Text about a number: a few words beside it, and a panel with everything about how it was made.

const percent = (level) => `${Number((100 * level).toPrecision(4))} %`;

/** A few words about the numbers of one model. */
function summaryOf(some) {
  const lines = some.flatMap((cell) => {
    const { dataset, metric, more } = titleOf(cells.column[cell]);
    const note = cells.value[cell] === null ? interned(cells.note[cell]) : null;
    const limit = limits(cell);
    return [
      make("p", { class: "what" }, [metric, dataset, more].filter(Boolean).join(" · ")),
      make("p", {}, make("b", {}, short(cells.value[cell])), limit ? ` ${limit}` : "", cells.n[cell] === null ? "" : `  n = ${cells.n[cell].toLocaleString("en")}`),
      ...referencesOf(cell).map((one) => make("p", {}, `${one.source}: ${short(one.value)} (${signed(one.difference)})`)),
      note && make("p", {}, note),
      originOf(cell) === "published" ? make("p", {}, `published: ${record(cells.convention[cell])?.source ?? "source unknown"}`) : null,
    ];
  });
  const model = cells.model[some[0]];
  const source = sourceOf(model);
  return [make("p", { class: "who" }, data.models[model]), source && make("p", { class: "what" }, source), isStated(model) && make("p", { class: "what" }, STATED), ...lines].filter(Boolean);
}

function showTip(some, beside) {
  const tip = find("tip");
  tip.replaceChildren(...summaryOf(some[0] === some[1] ? some.slice(1) : some));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, beside.left + beside.width / 2 - width / 2), innerWidth - width - 8);
  const above = beside.top - height - 8;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${above >= 8 ? above : beside.bottom + 8}px`;
  find("spoken").textContent = [...tip.children].map((node) => node.textContent).join(", ");
}

function hideTip() {
  find("tip").hidden = true;
}

/** Pairs of name and text as a list, without unknown ones. */
function pairs(entries) {
  const known = entries.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false);
  return make("dl", {}, ...known.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, textOf(value))]));
}
const textOf = (value) => (typeof value === "string" ? value : value instanceof Node ? value : JSON.stringify(value));
const spelt = (name) => name.replaceAll("_", " ");
const listed = (object) => Object.entries(object ?? {}).filter(([, value]) => value !== null).map(([name, value]) => [spelt(name), value]);
const fold = (title, ...content) => make("details", {}, make("summary", {}, title), ...content);

function openModel(model) {
  const place = groupAt(groupOf(model));
  open(data.models[model], [make("p", { class: "model" }, glyph(place), place.title), isStated(model) && make("p", {}, STATED), pairs(listed({ ...facts[model], licence: factOf(model, "licence") }))]);
}

function openCells(some) {
  open(data.models[cells.model[some[0]]], some.map(made));
}

function open(title, content) {
  hideTip();
  find("details-body").replaceChildren(make("h2", { id: "details-title" }, title), ...content.filter(Boolean));
  find("details").showModal();
  find("details").scrollTop = 0;
}

/** How one number was made. */
function made(cell) {
  const { task, dataset, metric, more } = titleOf(cells.column[cell]);
  const run = (name) => data.runs[name][cells.run[cell]];
  const protocol = interned(run("protocol"));
  const interval = interned(cells.interval[cell]);
  const limit = limits(cell);
  const value = cells.value[cell];
  const convention = record(cells.convention[cell]);
  const isPublished = originOf(cell) === "published";
  return make(
    "article",
    {},
    make("h3", {}, [metric, dataset, more].filter(Boolean).join(" · ")),
    make("p", { class: "value" }, make("b", {}, value === null ? "no value" : String(value)), limit ? ` ${limit}` : ""),
    pairs([
      ["task", `${task}${run("task_version") < 0 ? "" : `, version ${interned(run("task_version"))}`}`],
      ["interval", interval && `${percent(interval[0])}, ${spelt(interval[1])}`],
      ["n", cells.n[cell] === null ? null : cells.n[cell].toLocaleString("en")],
      ["mean over", interned(cells.aggregates[cell])],
      ["note", interned(cells.note[cell])],
      ["images", partOf(cell)],
      ["look at the images", galleryLink(data.columns[cells.column[cell]])],
      ["sample", interned(run("sample")) && sampleText(interned(run("sample")))],
      ["images skipped", interned(run("skipped")) || null],
      ["origin", interned(run("origin"))],
      ["source", isPublished && (data.sources[convention?.source] ?? convention?.source)],
    ]),
    isPublished ? null : referenceTable(referencesOf(cell)),
    make("h4", {}, "Protocol"),
    ...protocolText(protocol),
    make("h4", {}, "Convention"),
    pairs(listed(convention)),
    make("h4", {}, "Run"),
    pairs([
      ["run", interned(run("run_id"))],
      ["recipe", `${run("recipe_hash")}…`],
      ["precision", interned(run("precision"))],
      ["device", deviceText(record(run("device")))],
      ["images per device and step", interned(run("per_device_batch"))],
      ["wall time", run("wall_time") === null ? null : `${short(run("wall_time"))} s`],
      ["clipjax commit", interned(run("git_revision"))],
      ["XLA flags", interned(run("xla_flags"))],
    ]),
    fold("Recipe", pairs(listed(record(run("recipe"))))),
    fold("Versions", pairs(listed(record(run("versions"))))),
    fold("Model", pairs(listed(facts[cells.model[cell]]))),
  );
}

/** A link to the images of a number's task and data set; null if no gallery has them. */
function galleryLink({ task, dataset }) {
  const place = data.gallery?.find((one) => one.task === task && one.dataset === dataset);
  return place ? make("a", { href: place.page }, "where models are right and wrong") : null;
}

const sampleText = (sample) => `${sample.limit} of ${sample.of} images, seed ${sample.seed}`;
const deviceText = (device) => device && `${device.count} x ${device.kind} (${device.platform}), ${device.processes} process${device.processes === 1 ? "" : "es"}`;

function referenceTable(references) {
  if (!references.length) return make("p", { class: "quiet" }, "Nothing is published of this number under the same convention.");
  const head = make("tr", {}, ...["published", "difference", "source"].map((title) => make("th", { scope: "col" }, title)));
  const rows = references.map((one) => {
    const source = make("td", {}, data.sources[one.source] ?? one.source);
    if (one.note) source.append(make("small", {}, one.note));
    return make("tr", {}, make("td", {}, String(one.value)), make("td", {}, signed(one.difference)), source);
  });
  return make("div", { class: "scroll" }, make("table", {}, make("caption", {}, "Published"), make("thead", {}, head), make("tbody", {}, ...rows)));
}

function protocolText(protocol) {
  if (!protocol) return [make("p", { class: "quiet" }, "No published protocol is known for this task on this data set.")];
  const nearest = make("p", {}, make("b", {}, protocol.name), ` (${protocol.sha256.slice(0, 12)})`);
  if (!protocol.departures.length) return [nearest, make("p", {}, "Followed in everything that it asks.")];
  return [nearest, make("ul", {}, ...protocol.departures.map((departure) => make("li", {}, departure)))];
}

function startDetails() {
  const dialog = find("details");
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  addEventListener("scroll", hideTip, { passive: true });
}
