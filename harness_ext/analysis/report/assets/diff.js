// The words that changed between two drafts: a longest common subsequence, as in the terminal's `show`.

const MOST_CELLS = 4_000_000;

function wordsOf(text) {
  return text.match(/\s+|[^\s]+/gu) ?? [];
}

// Returns parts [kind, text] with the kinds ' ' (in both), '-' and '+'; null if the texts are too long to compare.
function wordDiff(before, after) {
  const old = wordsOf(before);
  const fresh = wordsOf(after);
  let start = 0;
  while (start < old.length && start < fresh.length && old[start] === fresh[start]) start += 1;
  let tail = 0;
  while (tail < old.length - start && tail < fresh.length - start
    && old[old.length - 1 - tail] === fresh[fresh.length - 1 - tail]) tail += 1;
  const a = old.slice(start, old.length - tail);
  const b = fresh.slice(start, fresh.length - tail);
  if (a.length * b.length > MOST_CELLS) return null;
  const width = b.length + 1;
  const longest = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      longest[i * width + j] = a[i] === b[j] ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  const parts = [];
  const add = (kind, text) => {
    const last = parts[parts.length - 1];
    if (last && last[0] === kind) last[1] += text;
    else if (text) parts.push([kind, text]);
  };
  add(' ', old.slice(0, start).join(''));
  let i = 0;
  let j = 0;
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      add(' ', a[i]);
      i += 1;
      j += 1;
    } else if (j >= b.length || (i < a.length && longest[(i + 1) * width + j] >= longest[i * width + j + 1])) {
      add('-', a[i]);
      i += 1;
    } else {
      add('+', b[j]);
      j += 1;
    }
  }
  add(' ', old.slice(old.length - tail).join(''));
  return parts;
}
