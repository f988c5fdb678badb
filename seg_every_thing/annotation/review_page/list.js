"use strict";
/* A list of any length of which only what is in sight has elements. */

const GAP = 10; // between tiles, in pixels; their size is that of the style sheet

Review.List = class {
  /**
   * @param element the listbox, which scrolls
   * @param fill makes the tile of an object
   * @param refresh brings what may change of a tile up to date
   * @param selected called with an object and its position, or with nothing
   */
  constructor(element, { fill, refresh, selected }) {
    Object.assign(this, { element, fill, refresh, selected });
    this.sheet = element.firstElementChild;
    this.objects = [];
    this.position = -1;
    this.tiles = new Map(); // object -> element
    let due = false;
    const later = () => {
      if (due) return;
      due = true;
      requestAnimationFrame(() => {
        due = false;
        this.render();
      });
    };
    element.addEventListener("scroll", later, { passive: true });
    new ResizeObserver(later).observe(element);
    this.sheet.addEventListener("click", (event) => {
      const tile = event.target.closest(".tile");
      if (tile) this.select(Number(tile.getAttribute("aria-posinset")) - 1);
    });
  }

  get current() {
    return this.objects[this.position];
  }

  /** Show other objects and select one of them. */
  show(objects, position) {
    this.objects = objects;
    this.select(position);
  }

  /** Select the object at a position, or the nearest one there is. */
  select(position) {
    this.position = Math.min(Math.max(0, position), this.objects.length - 1);
    this.measure();
    this.reveal();
    this.render();
    this.selected(this.current, this.position);
  }

  /** Rows of tiles, from the room that there is. */
  measure() {
    const style = getComputedStyle(this.element);
    const wanted = parseFloat(style.getPropertyValue("--tile"));
    const below = parseFloat(style.getPropertyValue("--caption"));
    const room = this.element.clientWidth - 2 * GAP;
    this.columns = Math.max(1, Math.floor((room + GAP) / (wanted + GAP)));
    this.width = (room + GAP) / this.columns - GAP;
    this.height = this.width + below;
    const rows = Math.ceil(this.objects.length / this.columns);
    this.sheet.style.height = `${rows * (this.height + GAP) + GAP}px`;
  }

  reveal() {
    if (this.position < 0) return;
    const top = Math.floor(this.position / this.columns) * (this.height + GAP);
    const bottom = top + this.height + 2 * GAP - this.element.clientHeight;
    if (this.element.scrollTop > top) this.element.scrollTop = top;
    else if (this.element.scrollTop < bottom) this.element.scrollTop = bottom;
  }

  render() {
    this.measure();
    const pitch = this.height + GAP;
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, Math.floor(scrollTop / pitch) - 1) * this.columns;
    const last = Math.ceil((scrollTop + clientHeight) / pitch + 1) * this.columns;
    const gone = new Map(this.tiles);
    this.objects.slice(first, last).forEach((object, i) => {
      gone.delete(object);
      if (!this.tiles.has(object)) {
        this.tiles.set(object, this.fill(object));
        this.sheet.append(this.tiles.get(object));
      }
      this.place(this.tiles.get(object), object, first + i);
    });
    for (const [object, tile] of gone) {
      tile.remove();
      this.tiles.delete(object);
    }
    const current = this.tiles.get(this.current);
    if (current) this.element.setAttribute("aria-activedescendant", current.id);
    else this.element.removeAttribute("aria-activedescendant");
  }

  place(tile, object, position) {
    const x = GAP + (position % this.columns) * (this.width + GAP);
    const y = GAP + Math.floor(position / this.columns) * (this.height + GAP);
    tile.style.transform = `translate(${x}px, ${y}px)`;
    tile.style.width = `${this.width}px`;
    tile.style.height = `${this.height}px`;
    tile.setAttribute("aria-posinset", position + 1);
    tile.setAttribute("aria-setsize", this.objects.length);
    tile.setAttribute("aria-selected", position === this.position);
    this.refresh(tile, object);
  }
};
