"use strict";
/* What was decided: kept in the browser, undone step by step, written to and read from a file. */

Review.Decisions = class {
  /**
   * @param objects all of them
   * @param source digest of the run: decisions of another one are refused
   * @param changed called when another window has changed the decisions, or they cannot be kept
   */
  constructor(objects, source, changed) {
    this.objects = objects;
    this.source = source;
    this.changed = changed;
    this.key = `seg_every_thing review ${source}`;
    this.byId = new Map(objects.map((object) => [String(object.id), object]));
    this.made = new Map(); // object -> "accept" | "reject"
    this.steps = []; // for undo: lists of [object, decision before]
    this.counts = { accept: 0, reject: 0 };
    this.kept = true; // whether the browser keeps them
    this.recall();
    addEventListener("storage", (event) => {
      if (event.key === this.key) {
        this.recall();
        changed();
      }
    });
    for (const event of ["pagehide", "visibilitychange"]) addEventListener(event, () => this.keep());
  }

  of(object) {
    return this.made.get(object);
  }

  put(object, decision) {
    const before = this.made.get(object);
    if (before) this.counts[before] -= 1;
    if (decision) {
      this.counts[decision] += 1;
      this.made.set(object, decision);
    } else {
      this.made.delete(object);
    }
    return before;
  }

  /** Decide on objects, as one step of undo; decision undefined = to do again. */
  set(objects, decision) {
    this.apply(objects.map((object) => [object, decision]));
  }

  apply(changes) {
    this.steps.push(changes.map(([object, decision]) => [object, this.put(object, decision)]));
    this.keepSoon();
  }

  /** Take the last step back; the objects of it, none where there is nothing left to undo. */
  undo() {
    const step = this.steps.pop() || [];
    for (const [object, before] of step) this.put(object, before);
    this.keepSoon();
    return step.map(([object]) => object);
  }

  /** The content of a file of decisions, objects as in the annotations. */
  text() {
    const made = this.objects.filter((object) => this.made.has(object));
    // Assembled by hand: an object of JavaScript would sort ids that are numbers.
    const lines = made.map((o) => `  ${JSON.stringify(String(o.id))}: "${this.made.get(o)}"`);
    const decisions = lines.length ? `{\n${lines.join(",\n")}\n }` : "{}";
    return `{\n "version": 1,\n "source": ${JSON.stringify(this.source)},\n "decisions": ${decisions}\n}\n`;
  }

  /** Changes that a file of decisions asks for, and how many are of objects that are not here. */
  read(text) {
    const content = JSON.parse(text);
    if (!content || content.version !== 1 || !(content.decisions instanceof Object)) {
      throw new Error("it is no file of decisions");
    }
    if (content.source !== this.source) throw new Error("it was made for another run");
    const entries = Object.entries(content.decisions);
    const wrong = entries.find(([, decision]) => decision !== "accept" && decision !== "reject");
    if (wrong) throw new Error(`object ${wrong[0]} is neither "accept" nor "reject"`);
    const known = entries.filter(([id]) => this.byId.has(id));
    return {
      changes: known.map(([id, decision]) => [this.byId.get(id), decision]),
      unknown: entries.length - known.length,
    };
  }

  // Writing takes a few milliseconds when there are thousands: not at each key.
  keepSoon() {
    this.timer = this.timer || setTimeout(() => this.keep(), 200);
  }

  keep() {
    if (!this.timer) return; // nothing new
    clearTimeout(this.timer);
    this.timer = undefined;
    try {
      localStorage.setItem(this.key, this.text());
      this.kept = true;
    } catch (error) {
      this.kept = false; // storage is full, or switched off
      this.changed();
    }
  }

  recall() {
    try {
      const text = localStorage.getItem(this.key);
      const { changes } = text ? this.read(text) : { changes: [] };
      for (const object of [...this.made.keys()]) this.put(object, undefined);
      for (const [object, decision] of changes) this.put(object, decision);
    } catch (error) {
      this.kept = false;
    }
  }
};
