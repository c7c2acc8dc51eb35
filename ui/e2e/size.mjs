// What a first visit loads, and what each page adds, packed with gzip: both have a limit.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';

const FIRST_KB_MAX = 180;
const PAGE_KB_MAX = 60;

const dist = new URL('../dist/', import.meta.url).pathname;
const manifest = JSON.parse(readFileSync(join(dist, '.vite/manifest.json'), 'utf8'));

/** A chunk with all that it imports at once. */
function files(name, found = new Set()) {
  const chunk = manifest[name];
  if (!chunk || found.has(chunk.file)) return found;
  found.add(chunk.file);
  for (const style of chunk.css ?? []) found.add(style);
  for (const next of chunk.imports ?? []) files(next, found);
  return found;
}
const size = (list) => [...list].reduce((sum, file) => sum + gzipSync(readFileSync(join(dist, file)), { level: 9 }).length, 0) / 1000;

const entry = Object.keys(manifest).find((name) => manifest[name].isEntry);
const first = files(entry);
first.add('index.html');
const rows = [['first load', size(first), FIRST_KB_MAX]];
for (const name of manifest[entry].dynamicImports ?? []) {
  if (!name.startsWith('src/pages/')) continue;
  const added = [...files(name)].filter((file) => !first.has(file));
  rows.push([name.replace('src/pages/', ''), size(added), PAGE_KB_MAX]);
}
let failed = false;
for (const [name, kb, max] of rows) {
  const over = kb > max;
  failed ||= over;
  console.log(`${name.padEnd(24)} ${kb.toFixed(1).padStart(7)} KB of ${max}${over ? '  TOO LARGE' : ''}`);
}
if (failed) process.exit(1);
