/** The model that the next message goes to, and how. Remembered in this browser. */

import { bus, type Model } from './bus.svelte';
import type { Settings } from './chat.svelte';

const KEY = 'sextant.pick';

interface Kept {
  model: string | null;
  settings: Settings;
}

function read(): Kept {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? '') as Partial<Kept>;
    return { model: kept.model ?? null, settings: kept.settings ?? {} };
  } catch {
    return { model: null, settings: {} };
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
