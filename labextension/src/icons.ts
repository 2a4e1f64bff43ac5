// The icons of the view: each state has a shape of its own, so colour is never the only mark.

import { html, svg, type TemplateResult } from 'lit-html';

const SHAPES = {
  launch: svg`<circle cx="6" cy="6" r="4.7" fill="none" stroke="currentColor" stroke-width="1.6" stroke-dasharray="2.2 1.490"/>`,
  restore: svg`<circle cx="6" cy="6" r="4.7" fill="none" stroke="currentColor" stroke-width="1.5"/><path fill="currentColor" d="M6 1.3a4.7 4.7 0 0 0 0 9.4z"/>`,
  rdv: svg`<g fill="none" stroke="currentColor" stroke-width="1.4"><circle cx="4" cy="6" r="3.2"/><circle cx="8" cy="6" r="3.2"/></g>`,
  idle: svg`<circle cx="6" cy="6" r="4.5" fill="none" stroke="currentColor" stroke-width="1.5"/>`,
  queue: svg`<path fill="currentColor" d="M0 4.7h2.6v2.6H0zM4.7 4.7h2.6v2.6H4.7zM9.4 4.7H12v2.6H9.4z"/>`,
  run: svg`<path fill="currentColor" d="M2.5 1v10L11 6z"/>`,
  wait: svg`<path fill="currentColor" d="M2 1.5h3v9H2zM7 1.5h3v9H7z"/>`,
  late: svg`<path fill="currentColor" fill-rule="evenodd" d="M6 0l6 6-6 6-6-6zM5.2 2.8v4h1.6v-4zm0 5v1.6h1.6V7.8z"/>`,
  done: svg`<path fill="none" stroke="currentColor" stroke-width="2" d="M1.2 6.4l3.2 3.2 6.4-7"/>`,
  fail: svg`<path fill="currentColor" fill-rule="evenodd" d="M3.5 0h5L12 3.5v5L8.5 12h-5L0 8.5v-5zM4.1 3L3 4.1 4.9 6 3 7.9 4.1 9 6 7.1 7.9 9 9 7.9 7.1 6 9 4.1 7.9 3 6 4.9z"/>`,
  intr: svg`<path fill="currentColor" d="M1.5 1.5h9v9h-9z"/>`,
  lost: svg`<g fill="none" stroke="currentColor" stroke-width="1.5"><circle cx="6" cy="6" r="4.7"/><path d="M2.7 9.3l6.6-6.6"/></g>`,
  right: svg`<path fill="none" stroke="currentColor" stroke-width="1.5" d="M4.5 2.5L8 6 4.5 9.5"/>`,
  down: svg`<path fill="none" stroke="currentColor" stroke-width="1.5" d="M2.5 4.5L6 8l3.5-3.5"/>`,
  stack: svg`<path fill="currentColor" d="M0 1.5h12V3H0zM2 5.250h10v1.5H2zM4 9h8v1.5H4z"/>`,
  stop: svg`<path fill="none" stroke="currentColor" stroke-width="1.6" d="M2 2l8 8M10 2l-8 8"/>`,
  plus: svg`<path fill="none" stroke="currentColor" stroke-width="1.6" d="M6 1v10M1 6h10"/>`,
  link: svg`<path fill="none" stroke="currentColor" stroke-width="1.5" d="M1 6h7M5.5 3l3 3-3 3M11 1v10"/>`,
  find: svg`<g fill="none" stroke="currentColor" stroke-width="1.5"><circle cx="5" cy="5" r="3.5"/><path d="M7.7 7.7L11 11"/></g>`,
  tail: svg`<path fill="none" stroke="currentColor" stroke-width="1.5" d="M6 1v7M3 5.5l3 3 3-3M1.5 11h9"/>`,
  list: svg`<path fill="currentColor" d="M1 2h2v1.5H1zM4.5 2H11v1.5H4.5zM1 5.3h2v1.5H1zM4.5 5.3H11v1.5H4.5zM1 8.6h2v1.5H1zM4.5 8.6H11v1.5H4.5z"/>`,
  check: svg`<path fill="none" stroke="currentColor" d="M.5.5h11v11H.5z"/><path fill="none" stroke="currentColor" stroke-width="2" d="M2.5 6.2l2.5 2.5 4.5-5.2"/>`,
  box: svg`<path fill="none" stroke="currentColor" d="M.5.5h11v11H.5z"/>`,
  copy: svg`<path fill="none" stroke="currentColor" stroke-width="1.2" d="M3.5 3.500V.6h8v8H8.500M.6 3.500h8v8h-8z"/>`,
  restart: svg`<path fill="none" stroke="currentColor" stroke-width="1.5" d="M9.8 3.800A4.500 4.500 0 1 0 10.500 6M10.300 1v3H7.300"/>`,
  ours: svg`<g fill="currentColor"><circle cx="2" cy="2" r="1.9"/><circle cx="10" cy="2" r="1.9"/><circle cx="2" cy="10" r="1.9"/><circle cx="10" cy="10" r="1.9"/></g><path stroke="currentColor" d="M2 2h8v8H2z" fill="none"/>`
};

export type IconName = keyof typeof SHAPES;

/** An icon beside words that say the same. */
export function icon(name: IconName, tone = ''): TemplateResult {
  return html`<svg class="i ${tone}" viewBox="0 0 12 12" aria-hidden="true">${SHAPES[name]}</svg>`;
}
