/** The pages, in the order of the rail. All but the chat are read when they are asked for. */

import type { Component } from 'svelte';
import type { IconName } from './components/Icon.svelte';

export interface PageEntry {
  name: string;
  title: string;
  icon: IconName;
  load?: () => Promise<{ default: Component }>;
}

export const PAGES: PageEntry[] = [
  { name: 'chat', title: 'Chat', icon: 'chat' },
  { name: 'models', title: 'Models', icon: 'models', load: () => import('../pages/ModelsPage.svelte') },
  { name: 'runtime', title: 'Runtime', icon: 'runtime', load: () => import('../pages/RuntimePage.svelte') },
  { name: 'planner', title: 'Planner', icon: 'planner', load: () => import('../pages/PlannerPage.svelte') },
  { name: 'router', title: 'Router', icon: 'router', load: () => import('../pages/RouterPage.svelte') },
  { name: 'telemetry', title: 'Telemetry', icon: 'telemetry', load: () => import('../pages/TelemetryPage.svelte') },
  { name: 'activity', title: 'Activity', icon: 'activity', load: () => import('../pages/ActivityPage.svelte') },
  { name: 'logs', title: 'Logs', icon: 'logs', load: () => import('../pages/LogsPage.svelte') },
  { name: 'doctor', title: 'Doctor', icon: 'doctor', load: () => import('../pages/DoctorPage.svelte') },
  { name: 'settings', title: 'Settings', icon: 'settings', load: () => import('../pages/SettingsPage.svelte') },
];
