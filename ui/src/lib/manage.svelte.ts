/** Loads, unloads and downloads. The endpoint does them; the bus tells how far they are. */

import { api, send, told, type Schemas } from './api/client';
import { bus } from './bus.svelte';

export type LoadRequest = Partial<Schemas['LoadRequest']>;

class Manage {
  /** What went wrong last, by model. */
  problems = $state<Record<string, ReturnType<typeof told>>>({});
  busy = $state<Record<string, boolean>>({});
  /** How a download that was begun here ended badly. */
  pullProblem = $state<{ spec: string; message: string } | null>(null);
  /** The model whose settings are being changed; with what is to be filled in. */
  asking = $state.raw<{ model: string; path?: string } | null>(null);

  async #run(model: string, work: () => Promise<unknown>): Promise<boolean> {
    delete this.problems[model];
    this.busy[model] = true;
    try {
      await work();
      return true;
    } catch (error) {
      const { message, hint, findings } = told(error);
      this.problems[model] = { message, hint, findings };
      return false;
    } finally {
      delete this.busy[model];
    }
  }

  load(model: string, request: LoadRequest = {}): Promise<boolean> {
    return this.#run(model, () => api.post('admin/models/load', { ...request, model }));
  }

  unload(model: string): Promise<boolean> {
    return this.#run(model, () => api.post('admin/models/unload', { model }));
  }

  /**
   * A model in memory keeps its settings, so it goes first. One that was loaded by its path is
   * forgotten with that: its path and what was asked for it go along.
   */
  reload(model: string, request: LoadRequest): Promise<boolean> {
    return this.#run(model, async () => {
      const known = bus.model(model);
      let before: Record<string, unknown> = {};
      if (known && !known.on_demand) {
        const { models } = await api.get<Schemas['AdminList']>('admin/models');
        const path = models.find((one) => one.name === model)?.path;
        const { tuned: _, ...asked } = known.asked;
        before = { path, pin: known.pinned, ...asked };
      }
      await api.post('admin/models/unload', { model });
      await api.post('admin/models/load', { ...before, ...request, model });
    });
  }

  async pull(spec: string): Promise<void> {
    this.pullProblem = null;
    try {
      const response = await send('POST', 'api/pull', { body: { model: spec } });
      const lines = (await response.text()).trim().split('\n');
      const last = JSON.parse(lines.at(-1) ?? '{}') as { error?: string };
      if (last.error) this.pullProblem = { spec, message: last.error };
    } catch (error) {
      this.pullProblem = { spec, message: told(error).message };
    }
  }
}

export const manage = new Manage();
