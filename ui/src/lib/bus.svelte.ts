/**
 * The state of the endpoint, as `/api/events` tells it. One tab reads the stream and hands it to
 * the others: browsers open only six connections to a host.
 */

import { access, host, type Schemas } from './api/client';
import { follow } from './sse';

export type Entry = Schemas['BusState'];
type Of<K extends Entry['kind']> = Extract<Entry, { kind: K }>;
export type Model = Of<'model'>;
export type Pull = Of<'pull'>;

/** The endpoint sends a sign of life every 15 s. */
const SILENCE_MS = 40_000;
/** Tabs that show the same endpoint share what they hear. */
const CHANNEL = `sextant.bus.${host.name}`;

type Shared = { event: Schemas['BusEvent'] } | { link: Link } | { hello: true };
export type Link = 'connecting' | 'open' | 'lost';

class Bus {
  entries = $state<Record<string, Entry>>({});
  link = $state<Link>('connecting');
  /** A snapshot has come: what is not there is not there. */
  isKnown = $state(false);
  #stop: AbortController | null = null;
  #channel: BroadcastChannel | null = null;

  models = $derived(this.#of('model'));
  answers = $derived(this.#of('answer'));
  pulls = $derived(this.#of('pull'));
  memory = $derived(this.#of('memory')[0] ?? null);
  /** Of the log, where the key of this page may read it. */
  log = $derived(this.#of('log')[0] ?? null);
  server = $derived(this.#of('server')[0] ?? null);
  /** The latest ten seconds of the history, and the changes of its marks. */
  telemetry = $derived(this.#of('telemetry')[0] ?? null);
  marks = $derived(this.#of('marks')[0] ?? null);
  chatChanges = $derived(this.#of('chats').reduce((sum, one) => sum + one.changes, 0));
  ready = $derived(this.models.filter((model) => model.phase === 'ready'));

  #of<K extends Entry['kind']>(kind: K): Of<K>[] {
    return Object.values(this.entries).filter((entry): entry is Of<K> => entry.kind === kind);
  }

  model(name: string | null | undefined): Model | null {
    const found = name ? this.entries[`model/${name}`] : undefined;
    return found?.kind === 'model' ? found : null;
  }

  start(): void {
    this.stop();
    const stop = new AbortController();
    this.#stop = stop;
    // Tabs with a key may each have another one, and what they see differs.
    if (access.key || !navigator.locks || typeof BroadcastChannel === 'undefined') {
      void this.#read(stop.signal, null);
      return;
    }
    const channel = new BroadcastChannel(CHANNEL);
    this.#channel = channel;
    channel.onmessage = (message: MessageEvent<Shared>) => this.#heard(message.data, channel);
    channel.postMessage({ hello: true } satisfies Shared);
    // Whoever holds the lock reads; the next one goes on when that tab is closed.
    navigator.locks
      .request(CHANNEL, { signal: stop.signal }, () => this.#read(stop.signal, channel))
      .catch(() => {});
  }

  stop(): void {
    this.#stop?.abort();
    this.#channel?.close();
    this.#channel = null;
  }

  #isReader = false;

  #heard(shared: Shared, channel: BroadcastChannel): void {
    if ('hello' in shared) {
      if (!this.#isReader || !this.isKnown) return;
      const entries = Object.entries($state.snapshot(this.entries)).map(([key, state]) => ({ key, state }));
      channel.postMessage({ event: { type: 'snapshot', entries } } satisfies Shared);
      channel.postMessage({ link: this.link } satisfies Shared);
    } else if (!this.#isReader) {
      if ('event' in shared) this.#take(shared.event);
      else this.link = shared.link;
    }
  }

  async #read(signal: AbortSignal, channel: BroadcastChannel | null): Promise<void> {
    this.#isReader = true;
    const say = (link: Link): void => {
      this.link = link;
      channel?.postMessage({ link } satisfies Shared);
    };
    await follow({
      path: 'api/events',
      silenceMs: SILENCE_MS,
      signal,
      onEvent: ({ data }) => {
        const event = JSON.parse(data) as Schemas['BusEvent'];
        this.#take(event);
        channel?.postMessage({ event } satisfies Shared);
      },
      onState: (state) => say(state === 'open' ? 'open' : 'lost'),
      onEnd: () => true,
      onRefused: (error) => error.status !== 401 && error.status !== 403,
    });
    this.#isReader = false;
  }

  #take(event: Schemas['BusEvent']): void {
    if (event.type === 'snapshot') {
      this.entries = Object.fromEntries(event.entries.map((entry) => [entry.key, entry.state]));
      this.isKnown = true;
      this.link = 'open';
    } else if (event.type === 'upsert') {
      this.entries[event.entry.key] = event.entry.state;
    } else {
      delete this.entries[event.key];
    }
  }
}

export const bus = new Bus();
