/**
 * Endpoints that this page can show: its own, and those among its providers that are of the same
 * kind. All are asked through its own, which has their keys.
 */

import { api, host, type Schemas } from './api/client';

class Hosts {
  /** The one that is shown in this tab; empty: the page's own. */
  readonly shown = host.name;
  others = $state<string[]>([]);

  /** Asks which there are. */
  async look(): Promise<void> {
    const found = await api.get<Schemas['ProviderList']>('v1/providers', { isOwn: true });
    this.others = found.data.filter((one) => one.is_host).map((one) => one.name);
    // One that is gone from the configuration cannot be shown any more.
    if (this.shown && !this.others.includes(this.shown)) this.show('');
  }

  /** Shows another one: all that the page knows is of one host, so it begins anew. */
  show(name: string): void {
    if (name === this.shown) return;
    host.set(name);
    location.hash = '#/runtime';
    location.reload();
  }
}

export const hosts = new Hosts();
