/** What the bus has told since this page was opened, for the charts. Bounded; nothing is kept. */

import { bus } from './bus.svelte';

const SAMPLES_MAX = 3600;
const EVERY_MS = 1000;
/** Where nothing changes charts are drawn so seldom: a page that is left open costs nothing then. */
const IDLE_EVERY_MS = 15_000;

export interface Sample {
  at: number;
  decode: number | null;
  prefill: number | null;
  running: number;
  waiting: number;
  memory: number;
  cells: number;
  cached: number;
}

class History {
  samples = $state.raw<Sample[]>([]);
  /** With those that are not drawn yet. */
  #all: Sample[] = [];
  #drawnMs = 0;
  #counters = { completion: 0, prompt: 0, at: 0 };

  start(): void {
    setInterval(() => this.#take(), EVERY_MS);
  }

  /** Tokens that came since the last look, a second. */
  #take(): void {
    if (!bus.isKnown || bus.link !== 'open') return;
    const workers = bus.models.flatMap((model) => (model.worker ? [model.worker] : []));
    const sum = (read: (worker: (typeof workers)[number]) => number): number => workers.reduce((total, worker) => total + read(worker), 0);
    const now = Date.now();
    const completion = sum((worker) => worker.completion_tokens_total);
    const prompt = sum((worker) => worker.prompt_tokens_total - worker.prompt_tokens_cached_total);
    const s = (now - this.#counters.at) / 1000;
    const isFirst = this.#counters.at === 0;
    const rate = (delta: number): number | null => (isFirst || delta < 0 ? null : delta / s);
    const sample: Sample = {
      at: now / 1000,
      decode: rate(completion - this.#counters.completion),
      prefill: rate(prompt - this.#counters.prompt),
      running: bus.models.reduce((total, model) => total + model.requests_running, 0),
      waiting: bus.models.reduce((total, model) => total + model.requests_waiting + (model.worker?.queued ?? 0), 0),
      memory: bus.memory?.memory_bytes ?? 0,
      cells: sum((worker) => worker.kv_cells_running),
      cached: sum((worker) => worker.kv_cells_cached),
    };
    this.#counters = { completion, prompt, at: now };
    const before = this.#all.at(-1);
    this.#all.push(sample);
    if (this.#all.length > SAMPLES_MAX) this.#all.shift();
    const isSame = before !== undefined && Object.entries(sample).every(([name, value]) => name === 'at' || value === before[name as keyof Sample]);
    if (isSame && now - this.#drawnMs < IDLE_EVERY_MS) return;
    this.#drawnMs = now;
    this.samples = [...this.#all];
  }
}

export const history = new History();
history.start();
