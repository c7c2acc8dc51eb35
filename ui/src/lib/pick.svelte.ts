/** The model that the next message goes to, and how. Remembered in this browser. */

import { bus, type Model } from './bus.svelte';
import type { How, Settings } from './chat.svelte';

const KEY = 'sextant.pick';

interface Kept {
  model: string | null;
  settings: Settings;
  /** How each message is answered a second time, to compare; `null`: it is not. */
  other: How | null;
}

function read(): Kept {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? '') as Partial<Kept>;
    return { model: kept.model ?? null, settings: kept.settings ?? {}, other: kept.other ?? null };
  } catch {
    return { model: null, settings: {}, other: null };
  }
}

class Pick {
  #kept = $state<Kept>(read());
  /** The chat that is looked at may have figures of its own. */
  figures = $state.raw<{ used: number; cached: number; context: number } | null>(null);

  /** As it was chosen, if that is still there; else the first that is in memory, or could be. */
  model = $derived.by<Model | null>(() => {
    const chats = bus.models.filter((model) => model.can_chat && !model.helps);
    const chosen = chats.find((model) => model.name === this.#kept.model);
    return chosen ?? chats.find((model) => model.phase === 'ready') ?? chats[0] ?? bus.ready[0] ?? null;
  });

  get settings(): Settings {
    return this.#kept.settings;
  }

  /** As the next message is answered. */
  get how(): How {
    return { model: this.model?.name ?? null, settings: $state.snapshot(this.#kept.settings) };
  }

  /** A model that has gone is answered for by the chosen one. */
  get other(): How | null {
    const other = $state.snapshot(this.#kept.other);
    if (!other) return null;
    const model = bus.model(other.model) ? other.model : (this.model?.name ?? null);
    return { ...other, model };
  }

  compare(other: How | null): void {
    this.#kept.other = other;
    this.#keep();
  }

  choose(model: string): void {
    this.#kept.model = model;
    this.#keep();
  }

  set(settings: Settings): void {
    this.#kept.settings = settings;
    this.#keep();
  }

  #keep(): void {
    localStorage.setItem(KEY, JSON.stringify($state.snapshot(this.#kept)));
  }
}

export const pick = new Pick();
