/**
 * A chat that is open: a tree of messages, and the answers that are being written. The endpoint
 * has all of it; this only shows it, so a reload loses nothing.
 */

import { api, told, type Schemas } from './api/client';
import { part } from './attach';
import { cut } from './format';
import { follow } from './sse';

export type Message = Schemas['WireMessage'];
export type ChatHead = Schemas['ChatHead'];
export type AnswerEvent = Schemas['AnswerEvent'];
export type Prompt = { done: number | null; total: number; cached: number };

/** What a turn is asked with, besides its text. */
export type Settings = Partial<Omit<Schemas['Turn'], 'text' | 'parent' | 'model' | 'continues'>>;

/** Something that is said, a message that is answered once more, or an answer that goes on. */
export type Asked = { parent: string | null; text: string | null } | { continues: string };
export interface How {
  model: string | null;
  settings: Settings;
}

const SILENCE_MS = 40_000;
/** As many as the endpoint takes of a first message. */
const TITLE_CHARS = 60;

/** An answer that is being written, between what the endpoint tells of it. */
export class Open {
  prompt = $state<Prompt | null>(null);
  /** When its first text came here, and how many characters have come since. */
  firstMs = $state(0);
  startMs = Date.now();
  link = $state<'open' | 'lost'>('open');
}

export class Chat {
  head = $state<ChatHead | null>(null);
  messages = $state<Record<string, Message>>({});
  /** Ids in the order in which they were begun. */
  order = $state.raw<string[]>([]);
  leaf = $state<string | null>(null);
  open = $state<Record<string, Open>>({});
  error = $state<{ message: string; hint: string } | null>(null);
  isLoading = $state(false);
  /** Is told of every answer that ends. */
  onEnd: (message: Message) => void = () => {};

  #stop = new AbortController();
  #pending = new Map<string, { text: string; reasoning: string; restart: boolean }>();
  #frame = 0;

  children = $derived.by(() => {
    const children = new Map<string | null, string[]>();
    for (const id of this.order) {
      const parent = this.messages[id]?.parent ?? null;
      children.set(parent, [...(children.get(parent) ?? []), id]);
    }
    return children;
  });

  /** From the beginning to the leaf of the branch that is looked at. */
  path = $derived.by(() => {
    const path: string[] = [];
    let next: string | null | undefined = this.leaf;
    while (next && this.messages[next] && path.length <= this.order.length) {
      path.push(next);
      next = this.messages[next]?.parent;
    }
    return path.reverse();
  });

  last = $derived(this.messages[this.path.at(-1) ?? ''] ?? null);
  isOpen = $derived(Object.keys(this.open).length > 0);

  /** The last answer of the branch that has its figures. */
  figures = $derived.by(() => {
    for (const id of [...this.path].reverse()) {
      const message = this.messages[id];
      if (message?.role === 'assistant' && message.detail?.prompt_tokens) return message.detail;
    }
    return null;
  });

  get id(): string | null {
    return this.head?.id ?? null;
  }

  async load(id: string): Promise<void> {
    this.close();
    this.isLoading = true;
    const signal = this.#stop.signal;
    try {
      const whole = await api.get<Schemas['ChatWhole']>(`api/chats/${encodeURIComponent(id)}`, { signal });
      const { messages, ...head } = whole;
      this.head = head;
      this.#take(messages);
      this.leaf = this.#leafOf(head.leaf ?? this.order.at(-1) ?? null);
    } catch (error) {
      if (!signal.aborted) this.error = told(error);
    } finally {
      if (!signal.aborted) this.isLoading = false;
    }
  }

  close(): void {
    this.#stop.abort();
    this.#stop = new AbortController();
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#pending.clear();
    this.head = null;
    this.messages = {};
    this.order = [];
    this.leaf = null;
    this.open = {};
    this.error = null;
    this.isLoading = false;
  }

  /** Reads what other tabs have added. */
  async refresh(): Promise<void> {
    const id = this.id;
    if (!id) return;
    try {
      const { messages, ...head } = await api.get<Schemas['ChatWhole']>(`api/chats/${encodeURIComponent(id)}`);
      if (this.id !== id) return;
      const wasAtEnd = !this.last || !(this.children.get(this.last.id) ?? []).length;
      this.head = head;
      this.#take(messages.filter((message) => !this.open[message.id]));
      if (wasAtEnd && this.leaf) this.leaf = this.#leafOf(this.leaf);
    } catch {
      // The bus says when the endpoint is back, and this is asked again.
    }
  }

  #take(messages: Message[]): void {
    for (const message of messages) {
      this.messages[message.id] = message;
      if (message.state === 'open' && !this.open[message.id]) this.#follow(message);
    }
    const known = new Set(this.order);
    const added = messages.filter((message) => !known.has(message.id)).map((message) => message.id);
    if (added.length) this.order = [...this.order, ...added];
  }

  /** The end of the branch below a message: the youngest version each time. */
  #leafOf(id: string | null): string | null {
    let leaf = id;
    for (let steps = 0; leaf && steps <= this.order.length; steps += 1) {
      const next: string | undefined = this.children.get(leaf)?.at(-1);
      if (!next) break;
      leaf = next;
    }
    return leaf;
  }

  async turn(asked: Asked, how: How): Promise<Schemas['TurnBegun']> {
    this.error = null;
    const chat = this.head ?? (await this.#begin('text' in asked ? asked.text : null));
    const what = 'continues' in asked ? asked : { parent: asked.parent ?? undefined, text: asked.text ?? undefined };
    const begun = await api.post<Schemas['TurnBegun']>(`api/chats/${chat.id}/messages`, {
      ...how.settings,
      ...what,
      model: how.model ?? undefined,
    });
    this.head = begun.chat;
    const added = begun.message ? [begun.message, begun.answer] : [begun.answer];
    this.#take(added);
    this.leaf = begun.answer.id;
    return begun;
  }

  /** Two answers to the same message, at the same time. */
  async twice(asked: { parent: string | null; text: string }, one: How, other: How): Promise<void> {
    const first = await this.turn(asked, one);
    const parent = first.answer.parent ?? null;
    try {
      await this.turn({ parent, text: null }, other);
    } catch (error) {
      this.error = told(error);
    }
    this.leaf = first.answer.id;
  }

  async #begin(text: string | null): Promise<ChatHead> {
    // What stands in a file would be a poor title.
    const { text: said, files } = part(text ?? '');
    const title = files.length ? cut(said || files.map(({ name }) => name).join(', '), TITLE_CHARS) : undefined;
    const { messages, ...head } = await api.post<Schemas['ChatWhole']>('api/chats', { title });
    this.head = head;
    this.#take(messages);
    return head;
  }

  async stop(): Promise<void> {
    if (this.id) await api.post(`api/chats/${this.id}/stop`, {});
  }

  versions(id: string): string[] {
    return this.children.get(this.messages[id]?.parent ?? null) ?? [id];
  }

  /** Looks at another version of a message. */
  async look(id: string): Promise<void> {
    this.leaf = this.#leafOf(id);
    if (this.id && this.leaf) {
      await api.post(`api/chats/${this.id}`, { leaf: this.leaf }).catch(() => {});
    }
  }

  #follow(message: Message): void {
    const open = new Open();
    this.open[message.id] = open;
    void follow({
      path: `api/chats/${encodeURIComponent(this.id ?? '')}/messages/${encodeURIComponent(message.id)}/events`,
      silenceMs: SILENCE_MS,
      signal: this.#stop.signal,
      onEvent: ({ data }) => this.#event(message.id, JSON.parse(data) as AnswerEvent),
      onState: (state) => {
        const known = this.open[message.id];
        if (known) known.link = state;
      },
      onEnd: () => Boolean(this.open[message.id]),
    });
    // What was there when the chat was opened comes again with the first event.
    this.#pending.set(message.id, { text: '', reasoning: '', restart: true });
  }

  #event(id: string, event: AnswerEvent): void {
    const open = this.open[id];
    if (!open) return;
    if (event.type === 'prompt') {
      open.prompt = { done: event.done ?? null, total: event.total, cached: event.cached };
    } else if (event.type === 'more') {
      open.prompt = null;
      open.firstMs ||= Date.now();
      const pending = this.#pending.get(id) ?? { text: '', reasoning: '', restart: false };
      if (event.restart) Object.assign(pending, { text: '', reasoning: '', restart: true });
      pending.text += event.text ?? '';
      pending.reasoning += event.reasoning ?? '';
      this.#pending.set(id, pending);
      // At most once a frame, however fast pieces come.
      this.#frame ||= requestAnimationFrame(() => this.#flush());
      if (document.hidden) this.#flush();
    } else {
      this.#pending.delete(id);
      this.messages[id] = event.message;
      delete this.open[id];
      this.onEnd(event.message);
    }
  }

  #flush(): void {
    this.#frame = 0;
    for (const [id, { text, reasoning, restart }] of this.#pending) {
      const message = this.messages[id];
      if (!message || (!text && !reasoning)) continue;
      message.text = restart ? text : message.text + text;
      message.reasoning = restart ? reasoning : message.reasoning + reasoning;
      this.#pending.set(id, { text: '', reasoning: '', restart: false });
    }
  }
}

/** A chat as one would keep it elsewhere. */
export function asMarkdown(chat: Chat): string {
  const parts = [`# ${chat.head?.title || 'Chat'}`];
  for (const id of chat.path) {
    const message = chat.messages[id];
    if (!message) continue;
    const who = message.role === 'assistant' ? (message.detail?.served_by ?? 'Assistant') : message.role === 'user' ? 'You' : 'System';
    parts.push(`## ${who}`, message.text.trim());
  }
  return `${parts.join('\n\n')}\n`;
}

export function asJson(chat: Chat): string {
  const messages = chat.order.map((id) => $state.snapshot(chat.messages[id]));
  return JSON.stringify({ chat: $state.snapshot(chat.head), messages }, null, 2);
}
