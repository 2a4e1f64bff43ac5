// The icons of the view: each state has a shape of its own, so colour is never the only mark.

import { html, nothing, type TemplateResult } from 'lit-html';

/** A path in a box of 12; the width of its line, without which it is filled; and the dashes of that line. */
type Shape = readonly [path: string, width?: number, dashes?: string];

/** What the states, the rows and the buttons of a session are marked with. */
const SHAPES = {
  launch: ['M1.3 6a4.7 4.7 0 1 0 9.4 0 4.7 4.7 0 1 0-9.4 0', 1.6, '2.2 1.49'],
  restore: ['M6 .6a5.4 5.4 0 0 0 0 10.8zM6 .6a5.4 5.4 0 0 1 0 10.8V9.9a3.9 3.9 0 0 0 0-7.8z'],
  rdv: ['M.8 6a3.2 3.2 0 1 0 6.4 0 3.2 3.2 0 1 0-6.4 0zm4 0a3.2 3.2 0 1 0 6.4 0 3.2 3.2 0 1 0-6.4 0', 1.4],
  idle: ['M1.5 6a4.5 4.5 0 1 0 9 0 4.5 4.5 0 1 0-9 0', 1.5],
  queue: ['M0 4.7h2.6v2.6H0zM4.7 4.7h2.6v2.6H4.7zM9.4 4.7H12v2.6H9.4z'],
  run: ['M2.5 1v10L11 6z'],
  wait: ['M2 1.5h3v9H2zM7 1.5h3v9H7z'],
  late: ['M6 0l6 6-6 6-6-6zM5.2 2.8v4h1.6v-4zm0 5v1.6h1.6V7.8z'],
  done: ['M1.2 6.4l3.2 3.2 6.4-7', 2],
  fail: ['M3.5 0h5L12 3.5v5L8.5 12h-5L0 8.5v-5zM4.1 3L3 4.1 4.9 6 3 7.9 4.1 9 6 7.1 7.9 9 9 7.9 7.1 6 9 4.1 7.9 3 6 4.9z'],
  intr: ['M1.5 1.5h9v9h-9z'],
  lost: ['M1.3 6a4.7 4.7 0 1 0 9.4 0 4.7 4.7 0 1 0-9.4 0M2.7 9.3l6.6-6.6', 1.5],
  right: ['M4.5 2.5L8 6 4.5 9.5', 1.5],
  down: ['M2.5 4.5L6 8l3.5-3.5', 1.5],
  stack: ['M0 1.5h12V3H0zM2 5.25h10v1.5H2zM4 9h8v1.5H4z'],
  stop: ['M2 2l8 8M10 2l-8 8', 1.6],
  restart: ['M9.8 3.8A4.5 4.5 0 1 0 10.5 6M10.3 1v3h-3', 1.5],
  list: ['M1 2h2v1.5H1zM4.5 2H11v1.5H4.5zM1 5.3h2v1.5H1zM4.5 5.3H11v1.5H4.5zM1 8.6h2v1.5H1zM4.5 8.6H11v1.5H4.5z'],
  copy: ['M3.5 3.5V.6h8v8H8.5M.6 3.5h8v8h-8z', 1.2]
} satisfies { [name: string]: Shape };

export type IconName = keyof typeof SHAPES;

// What only the panel and the log with a search have: the widget is smaller without.
export const CHECKED: Shape = ['M.7.7h10.6v10.6H.7zM2.8 6.2l2.3 2.3 4-4.7', 1.4];
export const UNCHECKED: Shape = ['M.7.7h10.6v10.6H.7z', 1.4];
export const PLUS: Shape = ['M6 1v10M1 6h10', 1.6];
export const LINK: Shape = ['M1 6h7M5.5 3l3 3-3 3M11 1v10', 1.5];

/** An icon beside words that say the same. */
export function icon(what: IconName | Shape, tone = ''): TemplateResult {
  const [path, width, dashes]: Shape = typeof what === 'string' ? SHAPES[what] : what;
  return html`<svg class="i ${tone}" viewBox="0 0 12 12" aria-hidden="true">
    <path d=${path} stroke-width=${width ?? nothing} stroke-dasharray=${dashes ?? nothing}></path>
  </svg>`;
}
