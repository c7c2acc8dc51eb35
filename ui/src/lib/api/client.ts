/** The endpoint's API: types come from its own description, errors say cause and fix. */

import type { components } from './schema';

export type Schemas = components['schemas'];

/** An error of the endpoint, as its table of errors has it. */
export class ApiFailure extends Error {
  readonly status: number;
  readonly code: string;
  readonly hint: string;
  /** What the doctor found, where a load failed. */
  readonly findings: Schemas['DoctorFinding'][];

  constructor(status: number, fields: Partial<{ message: string; code: string; hint: string; findings: Schemas['DoctorFinding'][] }>) {
    super(fields.message ?? `The endpoint answered with ${status}.`);
    this.status = status;
    this.code = fields.code ?? 'unknown';
    this.hint = fields.hint ?? '';
    this.findings = fields.findings ?? [];
  }
}

const KEY = 'sextant.key';

/** The key of the endpoint: in this tab alone, and never in an address. */
class Access {
  key = sessionStorage.getItem(KEY) ?? '';
  /** Is called when the endpoint wants a key, or another one. */
  onRefused: () => void = () => {};

  set(key: string): void {
    this.key = key.trim();
    if (this.key) sessionStorage.setItem(KEY, this.key);
    else sessionStorage.removeItem(KEY);
  }

  headers(): Record<string, string> {
    return this.key ? { Authorization: `Bearer ${this.key}` } : {};
  }
}

export const access = new Access();

const HOST = 'sextant.host';

/** The endpoint that this tab shows, by the name of the provider that it is; empty: its own. */
export const host = {
  name: sessionStorage.getItem(HOST) ?? '',

  /** For the page as it is read the next time. */
  set(name: string): void {
    if (name) sessionStorage.setItem(HOST, name);
    else sessionStorage.removeItem(HOST);
  },
};

/** Another endpoint is asked through the page's own. */
const placed = (path: string): string => (host.name ? `hosts/${encodeURIComponent(host.name)}/${path}` : path);

async function failure(response: Response): Promise<ApiFailure> {
  if (response.status === 401) access.onRefused();
  try {
    const body: unknown = await response.json();
    const error = (body as { error?: unknown }).error;
    if (typeof error === 'string') return new ApiFailure(response.status, { message: error });
    return new ApiFailure(response.status, (error ?? {}) as object);
  } catch {
    return new ApiFailure(response.status, {});
  }
}

export interface CallOptions {
  body?: unknown;
  signal?: AbortSignal;
  headers?: Record<string, string>;
  /** For the page's own endpoint, whichever is shown. */
  isOwn?: boolean;
}

/** A request whose answer is read by the caller. */
export async function send(method: string, path: string, options: CallOptions = {}): Promise<Response> {
  const headers: Record<string, string> = { ...access.headers(), ...options.headers };
  let body: string | undefined;
  if (options.body !== undefined) {
    headers['Content-Type'] = 'application/json';
    body = JSON.stringify(options.body);
  }
  let response: Response;
  try {
    response = await fetch(options.isOwn ? path : placed(path), { method, headers, body, signal: options.signal, credentials: 'omit' });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiFailure(0, {
      message: 'The endpoint does not answer.',
      code: 'unreachable',
      hint: 'It may have been stopped, or the network is down; the page goes on by itself when it is back.',
    });
  }
  if (!response.ok) throw await failure(response);
  return response;
}

async function call<T>(method: string, path: string, options?: CallOptions): Promise<T> {
  const response = await send(method, path, options);
  return (await response.json()) as T;
}

export const api = {
  get: <T>(path: string, options?: CallOptions) => call<T>('GET', path, options),
  post: <T>(path: string, body: unknown = {}, options?: CallOptions) =>
    call<T>('POST', path, { ...options, body }),
  remove: <T>(path: string, body?: unknown) => call<T>('DELETE', path, { body }),
};

/** What is told of an error, whatever it is. */
export function told(error: unknown): { message: string; hint: string; findings: Schemas['DoctorFinding'][] } {
  if (error instanceof ApiFailure) return error;
  return { message: error instanceof Error ? error.message : String(error), hint: '', findings: [] };
}
