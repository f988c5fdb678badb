"use strict";
/* The page: what its controls and keys do. */

const at = (id) => document.getElementById(id);
const say = (text) => (at("message").textContent = text);
const number = (n) => n.toLocaleString("en");
const WORDS = { accept: "accepted", reject: "rejected" };

Review.start = () => {
  const { title, source, facts, classes, flags } = Review.run;
  const objects = Review.objects();
  const sorted = {}; // order -> all objects
  const decisions = new Review.Decisions(objects, source, () => apply());

  const missing = (error) =>
    say(`The folder review_files beside this page is not whole: ${error.message}.`);
  const flagsOf = (object) => flags.filter((_, bit) => object.flags & (1 << bit)).join(", ");

  const list = new Review.List(at("list"), {
    fill(object) {
      const tile = at("tile").content.firstElementChild.cloneNode(true);
      tile.id = `object-${object.index}`;
      tile.querySelector(".view").append(Review.frame(object, "", missing));
      tile.querySelector(".name").textContent = classes[object.kind];
      tile.querySelector(".score").textContent = Review.score(object);
      return tile;
    },
    refresh(tile, object) {
      const decision = decisions.of(object);
      tile.dataset.decision = decision || "";
      tile.querySelector(".mark").textContent = { accept: "✓", reject: "✕" }[decision] || "";
      const parts = [classes[object.kind], `score ${Review.score(object)}`, flagsOf(object)];
      tile.setAttribute("aria-label", [...parts, WORDS[decision]].filter(Boolean).join(", "));
    },
    selected: showDetail,
  });

  function showDetail(object, position) {
    at("detail").classList.toggle("empty", !object);
    for (const id of ["accept", "reject", "clear"]) at(id).disabled = !object;
    at("previous").disabled = position <= 0;
    at("next").disabled = position >= list.objects.length - 1;
    at("undo").disabled = !decisions.steps.length;
    at("stage").replaceChildren();
    at("values").replaceChildren();
    at("name").textContent = object ? classes[object.kind] : "";
    const decision = object && decisions.of(object);
    at("verdict").textContent = WORDS[decision] || "";
    at("verdict").className = decision || "";
    for (const id of ["accept", "reject"]) at(id).setAttribute("aria-pressed", decision === id);
    if (!object) return;
    const alt = `${classes[object.kind]} in ${object.file}`;
    at("stage").append(Review.frame(object, alt, missing));
    at("values").append(
      ...terms({
        Score: Review.score(object),
        Fill: Review.percent(object.fill),
        Remarks: flagsOf(object) || "none",
        Image: object.file,
        "Box (x, y, w, h)": object.box.join(", "),
        Ids: `object ${object.id}, image ${object.image}`,
        Place: `${number(position + 1)} of ${number(list.objects.length)}`,
      }),
    );
  }

  function filters() {
    const form = at("filters").elements;
    const checked = [...at("flags").querySelectorAll("input:checked")];
    return {
      kind: form.class.value,
      scoreFrom: form.scoreFrom.value,
      scoreTo: form.scoreTo.value,
      fillFrom: form.fillFrom.value,
      fillTo: form.fillTo.value,
      decision: form.decision.value,
      flags: checked.reduce((all, box) => all | Number(box.value), 0),
    };
  }

  /** Filter again; select an object, or else the position. */
  function apply(object = list.current, position = list.position) {
    const order = at("filters").elements.order.value;
    sorted[order] = sorted[order] || [...objects].sort(Review.orders[order]);
    const now = filters();
    const shown = sorted[order].filter((o) => Review.passes(o, now, decisions.of(o)));
    const found = shown.indexOf(object);
    list.show(shown, found < 0 ? position : found);
    at("nothing").hidden = shown.length > 0;
    at("nothing").textContent = objects.length
      ? "No object passes the filters."
      : "There is nothing to review.";
    drawHistogram(shown);
    count();
  }

  function count() {
    const { accept, reject } = decisions.counts;
    const open = objects.length - accept - reject;
    at("counts").textContent =
      `${number(list.objects.length)} of ${number(objects.length)} shown · ` +
      `${number(accept)} accepted · ${number(reject)} rejected · ${number(open)} to do`;
    for (const bar of at("progress").children) {
      bar.style.width = `${(100 * decisions.counts[bar.className]) / (objects.length || 1)}%`;
    }
    if (!decisions.kept) {
      say("This browser does not keep progress: download the decisions before you close the page.");
    }
  }

  const PARTS = 20;
  const everything = Review.histogram(objects, PARTS);
  function drawHistogram(shown) {
    const some = Review.histogram(shown, PARTS);
    const highest = Math.max(1, ...everything);
    const bars = [["all", everything], ["shown", some]].flatMap(([name, counts]) =>
      counts.map((n, i) => bar(name, i / PARTS, 1 / PARTS, n / highest)),
    );
    at("histogram").replaceChildren(...bars);
    const range = (i) => `${(i / PARTS).toFixed(2)} to ${((i + 1) / PARTS).toFixed(2)}`;
    const words = some.flatMap((n, i) => (n ? [`${range(i)}: ${n}`] : []));
    const label = `Scores of the objects shown. ${words.join("; ") || "None"}.`;
    at("histogram").setAttribute("aria-label", label);
  }

  function decide(decision) {
    const object = list.current;
    if (!object) return;
    const { position } = list;
    decisions.set([object], decision);
    say("");
    if (Review.passes(object, filters(), decision)) {
      list.select(decision ? position + 1 : position);
      count();
    } else {
      apply(null, position); // it leaves the list, and the next one takes its place
    }
  }

  function decideShown(decision) {
    const open = list.objects.filter((object) => !decisions.of(object)); // what was decided stays
    if (open.length) decisions.set(open, decision);
    apply();
    say(`${number(open.length)} ${WORDS[decision]}. Undo takes all of them back.`);
  }

  function undo() {
    const changed = decisions.undo();
    apply(changed.length === 1 ? changed[0] : list.current);
    say(changed.length > 1 ? `${number(changed.length)} decisions taken back.` : "");
  }

  function download() {
    const url = URL.createObjectURL(new Blob([decisions.text()], { type: "application/json" }));
    const link = document.createElement("a");
    Object.assign(link, { href: url, download: "decisions.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  async function upload() {
    const [file] = at("file").files;
    at("file").value = ""; // the same file may be loaded again
    if (!file) return;
    try {
      const { changes, unknown } = decisions.read(await file.text());
      decisions.apply(changes);
      apply();
      const rest = unknown ? `; ${number(unknown)} are of objects that are not here` : "";
      say(`${number(changes.length)} decisions loaded${rest}.`);
    } catch (error) {
      say(`Cannot load ${file.name}: ${error.message}.`);
    }
  }

  const actions = {
    accept: () => decide("accept"),
    reject: () => decide("reject"),
    clear: () => decide(undefined),
    next: () => list.select(list.position + 1),
    previous: () => list.select(list.position - 1),
    undo,
    download,
    upload: () => at("file").click(),
    "accept-shown": () => decideShown("accept"),
    "reject-shown": () => decideShown("reject"),
  };
  for (const [id, action] of Object.entries(actions)) at(id).addEventListener("click", action);
  at("file").addEventListener("change", upload);

  const page = () => list.columns * Math.max(1, Math.floor(at("list").clientHeight / list.height));
  const move = (by) => list.select(list.position + by);
  const toggle = (id) => at(id).click();
  const keys = {
    a: actions.accept,
    r: actions.reject,
    c: actions.clear,
    n: actions.next,
    p: actions.previous,
    u: actions.undo,
    m: () => toggle("show-mask"),
    b: () => toggle("show-box"),
  };
  const arrows = {
    ArrowRight: actions.next,
    ArrowLeft: actions.previous,
    ArrowDown: () => move(list.columns),
    ArrowUp: () => move(-list.columns),
    PageDown: () => move(page()),
    PageUp: () => move(-page()),
    Home: () => list.select(0),
    End: () => list.select(list.objects.length - 1),
  };
  addEventListener("keydown", (event) => {
    const typing = event.target.matches("select, input:not([type=checkbox])");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const inList = event.target === at("list");
    const letter = at("keys").checked ? keys[event.key.toLowerCase()] : undefined;
    const action = (at("keys").checked || inList ? arrows[event.key] : undefined) || letter;
    if (!action) return;
    event.preventDefault();
    action();
  });

  // Another order begins with its first; with another filter, what is selected stays if it can.
  at("filters").addEventListener("input", (event) => {
    apply(event.target.name === "order" ? null : list.current, 0);
  });
  at("filters").addEventListener("reset", () => setTimeout(() => apply(list.current, 0)));
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  for (const what of ["mask", "box"]) {
    at(`show-${what}`).addEventListener("change", (event) => {
      document.body.classList.toggle(`without-${what}`, !event.target.checked);
    });
    at(`show-${what}`).checked = true; // some browsers restore it on reload
  }

  document.title = at("title").textContent = title;
  at("facts").append(...terms(facts));
  at("about").hidden = !Object.keys(facts).length;
  const kinds = classes.map((name, kind) => [name, kind, 0]);
  for (const object of objects) kinds[object.kind][2] += 1;
  kinds.sort((a, b) => a[0].localeCompare(b[0]));
  at("filters").elements.class.append(
    new Option(`All classes (${number(objects.length)})`, ""),
    ...kinds.map(([name, kind, n]) => new Option(`${name} (${number(n)})`, kind)),
  );
  flags.forEach((flag, i) => {
    const bit = 1 << i;
    const n = objects.filter((object) => object.flags & bit).length;
    at("flags").append(checkbox(`${flag} (${number(n)})`, bit));
  });
  at("flags").hidden = !flags.length;
  at("filters").reset();
  at("panel").open = matchMedia("(min-width: 60rem)").matches;
  apply(null, 0);
};

function terms(entries) {
  return Object.entries(entries).map(([name, text]) => {
    const group = document.createElement("div");
    const [term, value] = ["dt", "dd"].map((tag) => group.appendChild(document.createElement(tag)));
    term.textContent = name;
    value.appendChild(document.createElement("bdi")).textContent = text;
    return group;
  });
}

function checkbox(text, value) {
  const label = document.createElement("label");
  const box = Object.assign(document.createElement("input"), { type: "checkbox", value });
  label.append(box, ` ${text}`);
  return label;
}

/** A bar of the histogram; its place, width and height as parts of the whole. */
function bar(name, from, width, height) {
  const rectangle = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  const tall = height && Math.max(1, 64 * height); // a single object can be seen, too
  const place = { x: 200 * from + 1, width: 200 * width - 2, y: 64 - tall, height: tall };
  for (const [key, value] of Object.entries({ class: name, ...place })) {
    rectangle.setAttribute(key, value);
  }
  return rectangle;
}

if (Review.run) Review.start();
else say("The folder review_files is missing beside this page, or not whole: move or copy both together.");
