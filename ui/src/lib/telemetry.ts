/** The history of figures as the page holds it: gaps, live points, ranges, a file for others. */

import type { Schemas } from './api/client';

export type History = Schemas['TelemetryPage'];
export type Point = Schemas['TelemetryPoint'];
export type Mark = Schemas['TelemetryMark'];
export type Values = (number | null)[];

export const RANGES = [
  { name: '15 min', s: 900 },
  { name: '1 h', s: 3600 },
  { name: '24 h', s: 86_400 },
  { name: '7 d', s: 604_800 },
  { name: '90 d', s: 7_776_000 },
] as const;
/** With so many the shorter ranges have each ten seconds. */
export const POINTS = 361;

/** Times with a point of nothing in each gap, so that no line is drawn over it. */
export interface Spread {
  times: number[];
  /** For each time the place in the arrays of the answer; -1: nothing. */
  places: number[];
}

export function spread(page: Pick<History, 'at_s' | 'step_s'>): Spread {
  const times: number[] = [];
  const places: number[] = [];
  page.at_s.forEach((at, place) => {
    const before = page.at_s[place - 1];
    if (before !== undefined && at - before > page.step_s * 1.5) {
      times.push(before + page.step_s);
      places.push(-1);
    }
    times.push(at);
    places.push(place);
  });
  return { times, places };
}

/** The values of a line at the times of a spread. */
export const along = (places: number[], values: Values | undefined): Values => places.map((place) => (place < 0 ? null : (values?.[place] ?? null)));

/** The answer with one more point, and without what is older than `fromS`. */
export function appended(page: History, point: Point, fromS: number): History {
  const length = page.at_s.length;
  const last = page.at_s[length - 1];
  if (last !== undefined && point.at_s <= last) return page;
  const older = page.at_s.findIndex((at) => at >= fromS);
  const cut = older < 0 ? length : older;
  const more = <T>(values: T[], value: T): T[] => [...values.slice(cut), value];
  const none = (): Values => new Array<null>(length).fill(null);
  const lines = <V>(known: Record<string, V>, now: Record<string, number>, begin: () => V, add: (line: V, value: number | null) => V): Record<string, V> =>
    Object.fromEntries([...new Set([...Object.keys(known), ...Object.keys(now)])].map((name) => [name, add(known[name] ?? begin(), now[name] ?? null)]));
  return {
    ...page,
    at_s: more(page.at_s, point.at_s),
    figures: lines(page.figures, point.figures, (): Schemas['TelemetryLine'] => ({ mean: none() }), (line, value) => ({
      mean: more(line.mean, value),
      ...(line.high ? { high: more(line.high, value) } : {}),
      ...(line.low ? { low: more(line.low, value) } : {}),
    })),
    ttft: {
      p50_ms: more(page.ttft.p50_ms, point.ttft?.p50_ms ?? null),
      p95_ms: more(page.ttft.p95_ms, point.ttft?.p95_ms ?? null),
      p99_ms: more(page.ttft.p99_ms, point.ttft?.p99_ms ?? null),
      count: more(page.ttft.count, point.ttft?.count ?? 0),
    },
    cores_each: point.cores.length ? point.cores_each : page.cores_each,
    cores: more(page.cores, point.cores),
    processes: lines(page.processes, point.processes, none, more),
    marks: page.marks.filter((mark) => mark.at_ms / 1000 >= fromS),
  };
}

/** Marks that would lie over one another are one. */
export function clustered<T extends { at_ms: number }>(marks: T[], place: (mark: T) => number, apart: number): T[][] {
  const clusters: { at: number; marks: T[] }[] = [];
  for (const mark of marks) {
    const at = place(mark);
    const last = clusters.at(-1);
    if (last && at - last.at < apart) last.marks.push(mark);
    else clusters.push({ at, marks: [mark] });
  }
  return clusters.map((cluster) => cluster.marks);
}

/** A field of a table that no spreadsheet takes for a formula. */
function field(text: string): string {
  const safe = /^[=+\-@\t]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** All of it as a table with commas. What is absent is empty, and a gap has no row. */
export function csv(page: History): string {
  const columns: [string, Values][] = [];
  for (const [name, line] of Object.entries(page.figures)) {
    columns.push([name, line.mean]);
    if (line.low) columns.push([`${name}_low`, line.low]);
    if (line.high) columns.push([`${name}_high`, line.high]);
  }
  columns.push(['ttft_p50_ms', page.ttft.p50_ms], ['ttft_p95_ms', page.ttft.p95_ms], ['ttft_p99_ms', page.ttft.p99_ms], ['ttft_count', page.ttft.count]);
  for (const [name, values] of Object.entries(page.processes)) columns.push([`memory_bytes ${name}`, values]);
  const said = (at: number): string => {
    const now = page.marks.filter((mark) => mark.at_ms / 1000 >= at && mark.at_ms / 1000 < at + page.step_s);
    return now.map(markText).join('; ');
  };
  const head = ['time', 'unix_s', 'seconds', ...columns.map(([name]) => name), 'cores_percent', 'marks'];
  const rows = page.at_s.map((at, place) => [
    new Date(at * 1000).toISOString(), String(at), String(page.step_s),
    ...columns.map(([, values]) => (values[place] === null || values[place] === undefined ? '' : String(values[place]))),
    (page.cores[place] ?? []).join(' '), said(at),
  ]);
  return [head, ...rows].map((row) => row.map(field).join(',')).join('\r\n') + '\r\n';
}

export interface Look {
  sign: string;
  word: string;
  /** A variable of the palette. */
  colour: string;
}

const LOOKS: Record<string, Look> = {
  start: { sign: '▶', word: 'started', colour: '--good' },
  stop: { sign: '■', word: 'stopped', colour: '--ink-3' },
  load: { sign: '↑', word: 'loaded', colour: '--good' },
  unload: { sign: '↓', word: 'unloaded', colour: '--ink-3' },
  crash: { sign: '✕', word: 'crashed', colour: '--bad' },
  failed: { sign: '✕', word: 'not loaded', colour: '--bad' },
  setting: { sign: '◆', word: 'settings changed', colour: '--mark' },
  tuned: { sign: '★', word: 'tuned settings', colour: '--mark' },
  clock: { sign: '◷', word: 'clock set', colour: '--warn' },
  note: { sign: '✎', word: 'note', colour: '--accent' },
};

export const look = (kind: string): Look => LOOKS[kind] ?? { sign: '•', word: kind, colour: '--ink-3' };

/** What happened, in a sentence. */
export function markText(mark: Mark): string {
  const who = mark.model ?? (mark.kind === 'start' || mark.kind === 'stop' ? 'the endpoint' : '');
  const what = mark.kind === 'note' ? '' : [who, look(mark.kind).word].filter(Boolean).join(' ');
  return [what, mark.text].filter(Boolean).join(': ');
}

const TIME = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hour12: false });
const SECOND = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hour12: false });
const DAY = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric' });
const MOMENT = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', hour12: false });

/** A time as it is read in a stretch of so many seconds. */
export function when(s: number, spanS: number): string {
  const date = new Date(s * 1000);
  if (spanS <= 3600) return SECOND.format(date);
  return spanS <= 86_400 ? TIME.format(date) : MOMENT.format(date);
}

/** A tick of the axis: days where they are far apart, and the day where one begins. */
export function tick(s: number, apartS: number): string {
  const date = new Date(s * 1000);
  const isMidnight = date.getHours() === 0 && date.getMinutes() === 0 && date.getSeconds() === 0;
  if (apartS >= 86_400 || isMidnight) return DAY.format(date);
  return apartS < 60 ? SECOND.format(date) : TIME.format(date);
}
