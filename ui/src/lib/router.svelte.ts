/**
 * Pages by the part of the address after `#`, so that the endpoint serves one page whatever is
 * looked at, and any prefix of a reverse proxy works.
 */

export interface Place {
  page: string;
  /** What follows the page's name, such as the id of a chat. */
  rest: string;
  query: URLSearchParams;
}

function read(): Place {
  const [path = '', query = ''] = location.hash.replace(/^#\/?/, '').split('?');
  const [page = '', ...rest] = path.split('/');
  return {
    page: page || 'chat',
    rest: decodeURIComponent(rest.join('/')),
    query: new URLSearchParams(query),
  };
}

class Router {
  place = $state.raw<Place>(read());
  /** The chat that was looked at last; empty: a new one. */
  chat = $state(this.place.page === 'chat' ? this.place.rest : '');
  /** In that chat: the message whose answers stand side by side; empty: one answer at a time. */
  beside = $state(this.place.query.get('beside') ?? '');

  constructor() {
    addEventListener('hashchange', () => this.#read());
  }

  go(path: string, how: 'push' | 'replace' = 'push'): void {
    const hash = `#/${path}`;
    if (how === 'replace') history.replaceState(null, '', hash);
    else history.pushState(null, '', hash);
    this.#read();
  }

  #read(): void {
    this.place = read();
    if (this.place.page !== 'chat') return;
    this.chat = this.place.rest;
    this.beside = this.place.query.get('beside') ?? '';
  }
}

export const router = new Router();
export const href = (path: string): string => `#/${path}`;
