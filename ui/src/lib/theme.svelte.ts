/** Light, dark, or as the system has it. Remembered in this browser. */

export type Theme = 'system' | 'light' | 'dark';

const KEY = 'sextant.theme';
const dark = matchMedia('(prefers-color-scheme: dark)');

function read(): Theme {
  const kept = localStorage.getItem(KEY);
  return kept === 'light' || kept === 'dark' ? kept : 'system';
}

class ThemeChoice {
  chosen = $state<Theme>(read());
  isDark = $state(false);

  constructor() {
    dark.addEventListener('change', () => this.apply());
  }

  choose(theme: Theme): void {
    this.chosen = theme;
    if (theme === 'system') localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, theme);
    this.apply();
  }

  next(): void {
    this.choose(this.isDark ? 'light' : 'dark');
  }

  apply(): void {
    this.isDark = this.chosen === 'dark' || (this.chosen === 'system' && dark.matches);
    document.documentElement.dataset.theme = this.isDark ? 'dark' : 'light';
  }
}

export const theme = new ThemeChoice();
