"use strict";
/* What there is to review: objects, their order and the filters.  Nothing here knows the document. */

const Review = { rows: [], run: null };

/** Rows of data.js -> objects. */
Review.objects = () =>
  Review.rows.map(([id, kind, score, fill, flags, file, image, box, window, size, picture], index) => ({
    index, id, kind, score, fill, flags, file, image, box, window, size, picture,
  }));

Review.score = (object) => (object.score === null ? "–" : object.score.toFixed(2));
Review.percent = (share) => `${Math.round(100 * share)} %`;

// Objects without a score come last in either order, as they are in the file.
const byScore = (sign) => (a, b) =>
  (a.score === null) - (b.score === null) || sign * (a.score - b.score) || a.index - b.index;
const byFill = (sign) => (a, b) => sign * (a.fill - b.fill) || a.index - b.index;

Review.orders = {
  worst: byScore(1),
  best: byScore(-1),
  hollow: byFill(1),
  full: byFill(-1),
  file: (a, b) => a.index - b.index,
};

/** Whether an object passes the filters; an empty text, or no flag, filters nothing.
 *  Limits are as the page shows the values: scores with two digits, fill in whole percents. */
Review.passes = (object, filters, decision) => {
  const score = object.score === null ? NaN : Number(object.score.toFixed(2));
  const fill = Math.round(100 * object.fill);
  const within = (value, from, to) =>
    (from === "" || value >= Number(from)) && (to === "" || value <= Number(to));
  return (
    within(score, filters.scoreFrom, filters.scoreTo) &&
    within(fill, filters.fillFrom, filters.fillTo) &&
    (filters.kind === "" || object.kind === Number(filters.kind)) &&
    (filters.decision === "" || filters.decision === (decision || "open")) &&
    (!filters.flags || (object.flags & filters.flags) !== 0)
  );
};

/** How many objects have a score in each of some equal parts of 0 to 1. */
Review.histogram = (objects, parts) => {
  const counts = new Array(parts).fill(0);
  for (const { score } of objects) {
    if (score !== null) counts[Math.min(parts - 1, Math.floor(score * parts))] += 1;
  }
  return counts;
};
