/**
 * Splits a text that grows into blocks that no longer change and a tail that does. What is
 * rendered of a block is kept, so the work for each piece is that of the tail alone.
 */

/** Whether a line opens or closes a fence, and of what. */
const FENCE = /^ {0,3}(`{3,}|~{3,})/;

export interface Split {
  /** Whole blocks, each with the blank lines after it. */
  blocks: string[];
  tail: string;
}

/** A boundary is a blank line outside of fences and formulas whose next line begins a new block. */
export function split(text: string): Split {
  const blocks: string[] = [];
  let start = 0;
  let at = 0;
  let fence = '';
  let inMath = false;
  let wasBlank = false;
  while (at < text.length) {
    const end = text.indexOf('\n', at);
    if (end < 0) break;
    const line = text.slice(at, end);
    // What is indented or is another item belongs to the list above it.
    const begins = wasBlank && !fence && !inMath && !/^(\s|[-*+] |\d+[.)] |>)/.test(line) && line.trim() !== '';
    if (begins && at > start) {
      blocks.push(text.slice(start, at));
      start = at;
    }
    const mark = FENCE.exec(line)?.[1];
    if (mark) {
      if (!fence) fence = mark;
      else if (mark.startsWith(fence[0] ?? '`') && mark.length >= fence.length && line.trim() === mark) fence = '';
    } else if (!fence) {
      const dollars = line.split('$$').length - 1;
      if (dollars % 2 === 1) inMath = !inMath;
      if (line.includes('\\[')) inMath = true;
      if (line.includes('\\]')) inMath = false;
    }
    wasBlank = line.trim() === '';
    at = end + 1;
  }
  return { blocks, tail: text.slice(start) };
}

/** Closes what a tail has open, so that a fence is code from its first line on. */
export function closed(tail: string): string {
  let fence = '';
  for (const line of tail.split('\n')) {
    const mark = FENCE.exec(line)?.[1];
    if (!mark) continue;
    if (!fence) fence = mark;
    else if (mark.startsWith(fence[0] ?? '`') && mark.length >= fence.length) fence = '';
  }
  if (fence) return `${tail}${tail.endsWith('\n') ? '' : '\n'}${fence}`;
  // A bold word or code that has begun is shown as such before its end has come.
  const line = tail.slice(tail.lastIndexOf('\n') + 1);
  let mended = tail;
  if ((line.match(/`/g)?.length ?? 0) % 2 === 1) mended += '`';
  else if ((line.match(/\*\*/g)?.length ?? 0) % 2 === 1) mended += line.endsWith('**') ? '' : '**';
  return mended;
}
