/** Server-sent events over `fetch`, which can send a key where `EventSource` cannot. */

import { ApiFailure, send } from './api/client';

export interface SseEvent {
  id: string;
  data: string;
}

/** Takes a stream apart; what is incomplete waits for more. */
export class SseParser {
  #rest = '';

  push(text: string): SseEvent[] {
    this.#rest += text;
    const events: SseEvent[] = [];
    for (;;) {
      const end = this.#rest.indexOf('\n\n');
      if (end < 0) return events;
      const block = this.#rest.slice(0, end);
      this.#rest = this.#rest.slice(end + 2);
      const event: SseEvent = { id: '', data: '' };
      for (const line of block.split('\n')) {
        if (line.startsWith('data: ')) event.data += line.slice(6);
        else if (line.startsWith('id: ')) event.id = line.slice(4);
      }
      if (event.data) events.push(event);
    }
  }
}

export interface Follow {
  path: string;
  /** Silence after which the connection is taken for dead. */
  silenceMs: number;
  signal: AbortSignal;
  onEvent: (event: SseEvent) => void;
  onState?: (state: 'open' | 'lost') => void;
  /** The stream has ended by itself; `true`: it is to be read again. */
  onEnd: () => boolean;
  /** The endpoint refuses; `true`: ask again later. */
  onRefused?: (error: ApiFailure) => boolean;
}

const PAUSES_MS = [250, 500, 1000, 2000, 5000];

/** Follows a stream over broken connections: each time from the last event that came. */
export async function follow(options: Follow): Promise<void> {
  let lastId = '';
  let failures = 0;
  while (!options.signal.aborted) {
    const attempt = new AbortController();
    const stop = (): void => attempt.abort();
    options.signal.addEventListener('abort', stop, { once: true });
    let silence = setTimeout(stop, options.silenceMs);
    try {
      const headers: Record<string, string> = lastId ? { 'Last-Event-ID': lastId } : {};
      const response = await send('GET', options.path, { signal: attempt.signal, headers });
      const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader();
      if (!reader) return;
      options.onState?.('open');
      failures = 0;
      const parser = new SseParser();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        clearTimeout(silence);
        silence = setTimeout(stop, options.silenceMs);
        for (const event of parser.push(value)) {
          if (event.id) lastId = event.id;
          options.onEvent(event);
        }
      }
      if (!options.onEnd()) return;
    } catch (error) {
      if (options.signal.aborted) return;
      if (error instanceof ApiFailure && error.status >= 400) {
        if (!(options.onRefused?.(error) ?? error.status >= 500)) return;
      }
    } finally {
      clearTimeout(silence);
      options.signal.removeEventListener('abort', stop);
    }
    options.onState?.('lost');
    const pause = PAUSES_MS[Math.min(failures, PAUSES_MS.length - 1)] ?? 5000;
    failures += 1;
    await new Promise((done) => setTimeout(done, pause));
  }
}
