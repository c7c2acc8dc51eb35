/**
 * Text files that go along with a message. They stand in its text, so what the model reads is what
 * is shown, found, copied and exported; the page takes them apart again to fold them.
 */

export const FILES_MAX = 8;
export const FILE_BYTES_MAX = 256 * 1024;

export interface Attached {
  name: string;
  bytes: number;
  text: string;
}

const KIB = 1024;
const kib = (bytes: number): string => `${(bytes / KIB).toFixed(bytes < 10 * KIB ? 1 : 0)} KiB`;

/** Reads a file; what is refused is said as people can act on it. */
export async function read(file: File): Promise<Attached> {
  if (file.size > FILE_BYTES_MAX) {
    throw new Error(`${file.name} has ${kib(file.size)}; a file may have at most ${kib(FILE_BYTES_MAX)}. Attach the part that matters.`);
  }
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(await file.arrayBuffer());
  } catch {
    throw new Error(`${file.name} is not text in UTF-8; only such files can be attached.`);
  }
  if (text.includes('\0')) throw new Error(`${file.name} is not text; only text files can be attached.`);
  return { name: named(file.name), bytes: file.size, text: text.replace(/\r\n?/g, '\n') };
}

/** A name that stays in its line and its marks. */
const named = (name: string): string => name.replace(/[`\s]+/g, ' ').trim() || 'file';

/** Longer than any row of backticks within. */
function fenceFor(text: string): string {
  const longest = Math.max(0, ...(text.match(/`{3,}/g) ?? []).map((row) => row.length));
  return '`'.repeat(Math.max(3, longest + 1));
}

export function join(text: string, files: Attached[]): string {
  const parts = files.map(({ name, bytes, text: inner }) => {
    const fence = fenceFor(inner);
    return `File \`${name}\` (${bytes} bytes):\n${fence}\n${inner}\n${fence}`;
  });
  return [text, ...parts].filter(Boolean).join('\n\n');
}

const HEAD = /^File `([^`\n]+)` \((\d+) bytes\):\n(`{3,})\n/;

/** The files that a text ends with, and what stands before them. */
export function part(whole: string): { text: string; files: Attached[] } {
  for (let at = whole.startsWith('File `') ? 0 : next(whole, 0); at >= 0; at = next(whole, at)) {
    const files = filesOf(whole.slice(at));
    if (files) return { text: whole.slice(0, at).replace(/\n\n$/, ''), files };
  }
  return { text: whole, files: [] };
}

function next(whole: string, from: number): number {
  const found = whole.indexOf('\n\nFile `', from);
  return found < 0 ? -1 : found + 2;
}

/** All of a text as files; `null` where something else is in it. */
function filesOf(text: string): Attached[] | null {
  const files: Attached[] = [];
  let rest = text;
  for (;;) {
    const head = HEAD.exec(rest);
    if (!head) return null;
    const [opening, name = '', bytes = '', fence = ''] = head;
    const inner = rest.slice(opening.length);
    const end = inner.indexOf(`\n${fence}`);
    if (end < 0) return null;
    files.push({ name, bytes: Number(bytes), text: inner.slice(0, end) });
    rest = inner.slice(end + 1 + fence.length);
    if (!rest) return files;
    if (!rest.startsWith('\n\n')) return null;
    rest = rest.slice(2);
  }
}
